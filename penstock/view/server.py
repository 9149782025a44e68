"""``penstock view FOLDER``: the pages on a port of this machine, until Ctrl-C.

Price: the rows of the sample are read and indexed first (some seconds for 20,000), into a folder that goes with the
server; then a page costs milliseconds.
"""

from __future__ import annotations

import html
import os
import secrets
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, MissingExtraError
from penstock.view.corpus import Corpus, Row

if TYPE_CHECKING:
    import uvicorn

SAMPLE = 20_000
Progress = Callable[[str, int, int], None]


def _nothing(*_: object) -> None:
    return None


def serve_view(
    folder: str,
    *,
    port: int = 0,
    browser: bool = True,
    sample: int = SAMPLE,
    say: Callable[[str], None] = print,
    progress: Progress = _nothing,
    started: Callable[[uvicorn.Server], None] = _nothing,
) -> None:
    """Serve the pages of a dataset, a step or a run on 127.0.0.1 until Ctrl-C; called on the main thread.

    Args:
        folder: path or URL.
        port: 0 takes a free one.
        browser: open the first page.
        sample: rows to look at, at most; what is there beyond is sampled by chance.
        say: hears the address.
        progress: hears how many rows were read.
        started: is given the server when it listens.

    Raises:
        DatasetError: no dataset is there, or none with texts.
        ConfigError: the port is taken, or ``sample`` is not at least 1.
        MissingExtraError: the extra ``view`` is not installed.
    """
    if sample < 1:
        raise ConfigError(f"sample: got {sample}, allowed at least 1 row")
    try:
        import uvicorn
        from starlette.applications import Starlette  # noqa: F401 - asked for here, needed by the application
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "view") from error
    from penstock.view.app import application
    from penstock.view.index import Index
    from penstock.view.map import Map
    from penstock.view.pages import Pages
    from penstock.view.points import points_of

    with ExitStack() as stack:
        listening = stack.enter_context(_listen(port))
        corpus = Corpus(folder)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-view-")))
        taken, rows = corpus.sample(sample)
        index = stack.enter_context(closing(Index(place, _counted(rows, taken.rows, progress))))
        points = points_of(corpus, index)
        pages = Pages(corpus, taken, index, None if points is None else Map(points))
        token, at = secrets.token_urlsafe(24), listening.getsockname()[1]
        guard = application(pages, token=token, port=at)
        config = uvicorn.Config(guard, log_level="error", access_log=False, lifespan="off", server_header=False)
        address = f"http://127.0.0.1:{at}/{token}/"

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)  # from here on it answers, and ends well when it is told to
                say(address)
                if browser and _has_screen():
                    _open(place, address)
                started(self)

        try:
            Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # it has ended well, and says by this what ended it
            return


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"port: got {port}, which cannot be listened on ({error.strerror}); take another, or 0"
        ) from error
    return listening


def _counted(rows: Iterator[Row], total: int, progress: Progress) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if number % 1000 == 0 or number == total:
            progress("reading rows", number, total)
        yield row


def _has_screen() -> bool:
    """Whether a browser could show itself; without, Python would start one in the terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open(place: Path, address: str) -> None:
    """Open the first page by way of a file: an address on a command line can be read by other users."""
    file = place / "open.html"
    file.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">', encoding="utf-8")
    webbrowser.open(file.as_uri())
