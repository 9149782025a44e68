"""croissant.json of a published dataset: what it holds, in the words that dataset search and other tools read.

MLCommons Croissant 1.1 (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html), a JSON-LD document:

    FileObject  one of each file: path, bytes, sha256
    FileSet     the files of a split
    RecordSet   the rows of a split: a Field of each column, with its type

It is made from the manifest alone, so equal datasets give equal bytes; it holds no date of publication for that reason.

Price: none; about 300 bytes of JSON a file.
"""

from __future__ import annotations

import json
import re
from typing import Any

from penstock.card import card_settings, splits_of, title_of
from penstock.dataset import MANIFEST, Manifest

CROISSANT = "croissant.json"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
PARQUET = "application/x-parquet"  # the specification's word; the registered application/vnd.apache.parquet is not read
_TYPES = {
    **{name: f"cr:{name.capitalize()}" for name in ("int8", "int16", "int32", "int64")},
    **{name: f"cr:UInt{name[4:]}" for name in ("uint8", "uint16", "uint32", "uint64")},
    **{"halffloat": "cr:Float16", "float": "cr:Float32", "double": "cr:Float64"},
    **{"string": "sc:Text", "large_string": "sc:Text", "bool": "sc:Boolean", "date32[day]": "sc:Date"},
}
_LIST = re.compile(r"(?:large_|fixed_size_)?list<\w+: (.*?)(?: not null)?>(?:\[(\d+)\])?$")


def croissant(manifest: Manifest) -> dict[str, Any]:
    """The Croissant description of a published dataset."""
    said = card_settings(manifest)
    splits = splits_of(manifest)
    rows = ", ".join(f"{name} {manifest.tables[name].rows:,}" for name in splits)
    out: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": title_of(manifest),
        "description": said.get("description") or f"Documents for training language models. Rows: {rows}.",
        "identifier": manifest.digest,
        "keywords": ["penstock"],
    }
    if said.get("license"):
        license_ = said["license"]
        out["license"] = license_ if "://" in license_ else f"https://spdx.org/licenses/{license_}"
    for name, key in (("citation", "citeAs"), ("homepage", "url"), ("languages", "inLanguage")):
        if said.get(name):
            out[key] = list(said[name]) if name == "languages" else said[name]
    # a manifest that was read back has its names in order
    files = [(PARQUET, file) for _, entry in sorted(manifest.tables.items()) for file in entry.files]
    files += [(_format(file.path), file) for _, file in sorted(manifest.artifacts.items())]
    out["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.bytes} B",
            "encodingFormat": encoding,
            "sha256": file.sha256,
        }
        for encoding, file in files
    ]
    for name in splits:
        folder = manifest.tables[name].files[0].path.rpartition("/")[0]
        out["distribution"].append(
            {
                "@type": "cr:FileSet",
                "@id": f"{name}-files",
                "name": f"{name}-files",
                "description": f"The files of {name}; {MANIFEST} holds their rows and sha256 too.",
                "encodingFormat": PARQUET,
                "includes": f"{folder}/{name}-*.parquet",
            }
        )
    out["recordSet"] = [
        {
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "description": f"{manifest.tables[name].rows} documents.",
            "key": {"@id": f"{name}/doc_id"},
            "field": [_field(name, column, kind) for column, kind in manifest.tables[name].columns.items()],
        }
        for name in splits
    ]
    return out


def to_json(value: dict[str, Any]) -> bytes:
    """As the file holds it; keys stay in their order, which readers of JSON-LD find easier."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _field(split: str, column: str, kind: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}}
    field = {"@type": "cr:Field", "@id": f"{split}/{column}", "name": column, "description": f"Arrow type {kind}."}
    return {**field, **_data_type(kind), "source": source}


def _data_type(kind: str) -> dict[str, Any]:
    """Croissant's words for an Arrow type; what it has none for is called text, and its description says more."""
    shape = []
    while found := _LIST.match(kind):
        kind = found[1]
        shape.append(found[2] or "-1")
    of = "sc:DateTime" if kind.startswith("timestamp") else _TYPES.get(kind, "sc:Text")
    return {"dataType": of, **({"isArray": True, "arrayShape": ",".join(shape)} if shape else {})}


def _format(path: str) -> str:
    return PARQUET if path.endswith(".parquet") else "application/octet-stream"
