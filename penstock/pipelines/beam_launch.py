"""What is looked at before a Beam job starts: its options, and what its workers can reach from where they are.

Workers on other machines fail late and in their own words: after minutes of starting they find no folder, no input, or
may not write. Here the same is told in a second, all of a kind at once.

    elsewhere      are the workers on this machine, and if not, where
    check_options  what the runner cannot do without
    check_folder   the run's folder is not one of this machine alone
    check_inputs   neither are the files that workers read for the recipe
    check_store    the launcher may write, list, read and delete there

Nothing but ``check_store`` reaches another machine. What only a worker can know (is penstock installed, may its account
read the store) is told by the first split that runs.
"""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock.errors import ConfigError, MissingExtraError, StorageError
from penstock.storage import Folder

if TYPE_CHECKING:
    from penstock.recipe import Recipe

DATAFLOW_NEEDS = ("project", "region", "temp_location")
_LOCATIONS = ("temp_location", "staging_location")
PORTABLE = ("portable", "flink", "spark")  # runners behind a job service
_HERE = ("localhost", "127.0.0.1", "::1")
# masters that mean a cluster within this process, or that of the job server
_NO_MASTER = re.compile(r"\[(local|auto)\]|local(\[.*\])?")

# Keys of files that workers read. Models that a step copies into the run's folder, and whatever the launcher alone
# reads (generate, train, group_rl), are not among them.
_FILES = r"(source|decontaminate\.benchmarks\.\d+|quality\.(positive|negative)|scores\.perplexity\.reference|"
_FILES += r"select\.search\.target)\.files\.\d+"
_READ = re.compile(
    rf"{_FILES}\.path|({_FILES}|source\.hub\.\d+)\.chat\.template|source\.hub\.\d+\.dataset|embed\.model\.path|"
    r"filters\.urls\.(domains|urls|words|soft_words|subwords)\.\d+|filters\.words\.lists\.\d+|"
    r"deduplicate\.history\.\d+|scores\.askllm\.model\.path|scores\.classifier\.\w+\.path|scores\.lm\.model"
)
_INSTALLATION = re.compile(r"(source|quality\.(positive|negative)|scores\.perplexity\.reference)\.environment")

_OPERATIONS = {
    "s3": {"write": "s3:PutObject", "list": "s3:ListBucket", "read": "s3:GetObject", "delete": "s3:DeleteObject"},
    "gs": {
        "write": "storage.objects.create",
        "list": "storage.objects.list",
        "read": "storage.objects.get",
        "delete": "storage.objects.delete",
    },
}
_MARKER = b"penstock\n"


def kind_of(runner: str) -> str:
    """``dataflow`` for DataflowRunner, by whatever spelling Beam takes: the last part of its name, in lower case."""
    return runner.rpartition(".")[2].lower().removesuffix("runner")


# ── where the workers are ────────────────────────────────────────────────────────────────────────


def environment_of(runner: str, options: Any) -> str:
    """DOCKER, PROCESS, EXTERNAL or LOOPBACK: in what the workers of a portable runner live."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions, SparkRunnerOptions

    portable = options.view_as(PortableOptions)
    if portable.environment_type:
        given: str = portable.environment_type
        return given.split(":")[2].upper() if given.startswith("beam:env:") else given.upper()
    masters = {
        "flink": options.view_as(FlinkRunnerOptions).flink_master,
        "spark": options.view_as(SparkRunnerOptions).spark_master_url,
    }
    # without a master these two start a cluster here, whose workers are in this process
    local = _NO_MASTER.fullmatch(masters.get(kind_of(runner), "")) and not portable.output_executable_path
    return "LOOPBACK" if local else "DOCKER"


def elsewhere(runner: str, options: Any) -> str | None:
    """Where the workers of a runner are, in words; None for this machine, and for runners that are not Beam's own.

    Args:
        options: Beam's ``PipelineOptions``.
    """
    kind = kind_of(runner)
    if kind == "dataflow":
        return "machines of Google's cloud"
    if kind not in PORTABLE:
        return None
    environment = environment_of(runner, options)
    if environment == "LOOPBACK":
        return None
    if environment == "DOCKER":
        return "containers, which see no folder of this machine"
    return next((f"machines behind {address}" for address in _addresses(kind, options) if not _is_here(address)), None)


def _addresses(kind: str, options: Any) -> Iterator[str]:
    """Of the pool of workers and of what starts them."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions, SparkRunnerOptions
    from apache_beam.transforms.environments import looks_like_json

    portable = options.view_as(PortableOptions)
    flink, spark = options.view_as(FlinkRunnerOptions), options.view_as(SparkRunnerOptions)
    if environment_of(kind, options) == "EXTERNAL":
        given = portable.environment_config or portable.lookup_environment_option("external_service_address") or ""
        yield json.loads(given).get("url", "") if looks_like_json(given) else given
    yield portable.job_endpoint or ""
    if kind == "flink":
        yield flink.flink_master
    if kind == "spark":
        yield spark.spark_master_url
        yield spark.spark_rest_url or ""


def _is_here(address: str) -> bool:
    if not address or address == "embed" or _NO_MASTER.fullmatch(address):
        return True
    host = urlsplit(address if "://" in address else f"//{address}").hostname
    return host in _HERE or host == socket.gethostname().lower()


# ── what the runner needs ────────────────────────────────────────────────────────────────────────


def check_options(runner: str, options: Any) -> None:
    """Refuse a Dataflow job that lacks what Dataflow cannot do without; all of it is named.

    Beam itself would look for a region in gcloud's configuration, make a bucket where it is given none, and put one of
    two locations in the place of the other.

    Raises:
        ConfigError: an option is missing, or a location is no ``gs://BUCKET/…``.
        MissingExtraError: Google's client is not installed.
    """
    if kind_of(runner) != "dataflow":
        return
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    cloud = options.view_as(GoogleCloudOptions)
    missing = [f"--{name}" for name in DATAFLOW_NEEDS if not getattr(cloud, name)]
    if missing:
        raise ConfigError(
            f"runner {runner}: got no {', '.join(missing)}, allowed a project, a region and a folder for files that "
            "are thrown away; give --runner-option=--project=NAME, --runner-option=--region=europe-west4, "
            "--runner-option=--temp_location=gs://BUCKET/temp"
        )
    validator = PipelineOptionsValidator(options, None)
    for name in _LOCATIONS:
        if getattr(cloud, name) and (wrong := validator.validate_gcs_path(cloud, name)):
            raise ConfigError(
                f"runner option: got --{name}={getattr(cloud, name)}, allowed gs://BUCKET/FOLDER; {' '.join(wrong)}"
            )
    try:
        import google.cloud.dataflow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("google-cloud-dataflow-client", "cloud") from error


def locations(runner: str, options: Any) -> dict[str, str]:
    """Folders that the job itself writes to, by the option that names each."""
    if kind_of(runner) != "dataflow":
        return {}
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    cloud = options.view_as(GoogleCloudOptions)
    return {name: str(getattr(cloud, name)) for name in _LOCATIONS if getattr(cloud, name)}


# ── what the workers reach ───────────────────────────────────────────────────────────────────────


def is_of_this_machine(url: str) -> bool:
    """A path, or an address that means something in this process alone."""
    return "://" not in url or url.split("://", 1)[0] in ("file", "local", "memory")


def check_folder(runner: str, folder: Folder, where: str) -> None:
    """Refuse a folder for the run that its workers do not reach.

    Args:
        where: of ``elsewhere``.

    Raises:
        ConfigError: it is a path of this machine.
    """
    if is_of_this_machine(folder.url):
        raise ConfigError(
            f"{folder.url}: got a folder of this machine, which the workers of {runner} do not reach, as they run on "
            f"{where}; give --out an address such as s3://BUCKET/RUN or gs://BUCKET/RUN, or --shared-disk where every "
            "worker has this disk at this path"
        )


def check_inputs(runner: str, recipe: Recipe, where: str, *, shared_disk: bool) -> None:
    """Refuse files of a recipe that workers read and do not reach; all of them are named.

    Args:
        where: of ``elsewhere``.
        shared_disk: workers have the disks of this machine at the same paths; its Python installation they never have.

    Raises:
        ConfigError: there are some.
    """
    found = [] if shared_disk else list(files_of_this_machine(recipe))
    found += [f"{key}: this Python installation" for key in _installations(recipe)]
    if not found:
        return
    advice = "put files into a store and name their address, s3:// or gs://"
    if not shared_disk:
        advice += ", or say --shared-disk where every worker has them at the same path"
    raise ConfigError(
        f"inputs of this machine, which the workers of {runner} do not reach, as they run on {where}: "
        f"{'; '.join(found)}; {advice}"
    )


def files_of_this_machine(recipe: Recipe) -> Iterator[str]:
    """``key: path`` of every path that workers read, in the recipe's order. Looks at no file but at folders' names."""
    from penstock.embedding.distil import is_model2vec
    from penstock.sources._chat import MARKERS

    for key, value in _leaves(recipe.model_dump(mode="json"), ()):
        if not isinstance(value, str) or not _READ.fullmatch(key) or not is_of_this_machine(value):
            continue
        if key.endswith(".chat.template") and value in MARKERS:
            continue  # the name of a template that is built in
        if key.endswith(".dataset") and not os.path.isdir(os.path.expanduser(value)):
            continue  # a name on the Hub
        if key == "embed.model.path" and is_model2vec(Path(value)):
            continue  # copied into the run's folder
        yield f"{key}: {value}"


def _installations(recipe: Recipe) -> Iterator[str]:
    dumped = recipe.model_dump(mode="json")
    for key, value in _leaves(dumped, (), stop=_INSTALLATION):
        stands_in = key != "source.environment" or not (recipe.source.files or recipe.source.hub)
        if _INSTALLATION.fullmatch(key) and value is not None and stands_in:
            yield key


def _leaves(value: Any, path: tuple[str, ...], stop: re.Pattern[str] | None = None) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is no mapping and no list, and of what ``stop`` names."""
    key = ".".join(path)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or (stop is not None and stop.fullmatch(key)):
        yield key, value
        return
    for name, inner in items:
        yield from _leaves(inner, (*path, str(name)), stop)


# ── what the launcher may do ─────────────────────────────────────────────────────────────────────


def check_store(what: str, folder: Folder) -> None:
    """Write, list, read and delete one small file of its own below a folder.

    Args:
        what: how messages name the folder.

    Raises:
        StorageError: it names each of the four that was refused, and the permission that it takes.
        ConfigError, MissingExtraError: the address is of a store that is not known, or whose client is not installed.
    """
    home, name = folder / f".penstock-check-{uuid.uuid4().hex[:12]}", "marker"

    def listed() -> None:
        if home.files() != [name]:
            raise StorageError("what was just written is not listed")

    def read() -> None:
        if home.read_bytes(name) != _MARKER:
            raise StorageError("other bytes came back than were written")

    steps: dict[str, Callable[[], Any]] = {
        "write": lambda: home.write_bytes(name, _MARKER),
        "list": listed,
        "read": read,
        "delete": lambda: home.remove([name]),
    }
    needs = _OPERATIONS.get({"gcs": "gs", "s3a": "s3"}.get(folder.protocol, folder.protocol), {})
    refused = []
    for operation, step in steps.items():
        try:
            step()
        except (StorageError, FileNotFoundError) as error:
            permission = f" (it takes {needs[operation]})" if operation in needs else ""
            refused.append(f"{operation}{permission}: {error}")
            if operation == "write":
                break  # there is nothing to list, to read or to delete
    if folder.is_local and os.path.isdir(home.path) and not os.listdir(home.path):
        os.rmdir(home.path)
    if refused:
        raise StorageError(
            f"{what} {folder.url}: tried to write, list, read and delete a small file, and was refused to "
            f"{'; to '.join(refused)}; have it granted, or choose another folder"
        )
