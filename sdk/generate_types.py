"""Generate src/axforge/_generated.py from docs/openapi.json: `python sdk/generate_types.py [--check]`.

A client lives longer than the server it was made with, so what it reads stays open: fields that it
does not know are kept, closed sets of words become text, and limits are the server's to check.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from datamodel_code_generator import DataModelType, InputFileType, PythonVersion, generate
from datamodel_code_generator.format import Formatter

HERE = Path(__file__).resolve().parent
SNAPSHOT = HERE.parent / "docs" / "openapi.json"
TARGET = HERE / "src" / "axforge" / "_generated.py"
HEADER = '"""Documents of the API. Do not edit: generate_types.py makes this file from docs/openapi.json."""'
LIMITS = frozenset(
    {
        "exclusiveMaximum",
        "exclusiveMinimum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "uniqueItems",
    }
)
KEPT_FORMATS = frozenset({"date-time"})


def main(arguments: list[str]) -> int:
    """Write the file; with `--check`, only say whether it is current."""
    code = generated(json.loads(SNAPSHOT.read_text(encoding="utf-8")))
    if "--check" not in arguments:
        TARGET.write_text(code, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == code:
        return 0
    print(f"{TARGET.name} is not what {SNAPSHOT.name} says: python sdk/generate_types.py", file=sys.stderr)
    return 1


def generated(openapi: dict[str, Any]) -> str:
    """Source code of the module for an OpenAPI document."""
    schemas = {name: opened(schema) for name, schema in openapi["components"]["schemas"].items()}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "axforge", "version": "1"},
        "paths": {},
        "components": {"schemas": schemas},
    }
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "generated.py"
        generate(
            json.dumps(document),
            input_file_type=InputFileType.OpenAPI,
            output=output,
            output_model_type=DataModelType.PydanticV2BaseModel,
            target_python_version=PythonVersion.PY_311,
            collapse_root_models=True,
            custom_file_header=HEADER,
            extra_fields="allow",
            use_annotated=True,
            use_double_quotes=True,
            use_schema_description=True,
            use_standard_collections=True,
            use_union_operator=True,
            formatters=[Formatter.RUFF_CHECK, Formatter.RUFF_FORMAT],
            settings_path=HERE.parent / "pyproject.toml",
        )
        return output.read_text(encoding="utf-8")


def opened(schema: Any) -> Any:
    """The schema without limits, and with text instead of each closed set of words."""
    if isinstance(schema, list):
        return [opened(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        rest = opened({key: part for key, part in schema.items() if key != "properties"})
        return {**rest, "properties": {name: opened(field) for name, field in schema["properties"].items()}}
    if "discriminator" in schema:  # a variant that is new would be taken for one that is known
        return {"type": "object"}
    words = schema.get("enum", [schema["const"]] if "const" in schema else [])
    rest = {key: opened(part) for key, part in schema.items() if _is_kept(key, part)}
    if words and all(isinstance(word, str) for word in words):
        return {**rest, "type": "string"}
    return rest


def _is_kept(key: str, part: Any) -> bool:
    if key == "additionalProperties":
        return isinstance(part, dict)
    if key == "default":
        return not isinstance(part, (dict, list))
    if key == "format":
        return part in KEPT_FORMATS
    return key not in LIMITS | {"const", "enum", "examples", "title"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
