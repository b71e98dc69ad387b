"""What the YAML files named on the command line hold, as one JSON array; every document is validated first.

Kubernetes' own kinds against Kubernetes' schemas, strictly; the others against testdata/deploy/schemas.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = pathlib.Path(__file__).parent / "schemas"
VERSION = "1.37"


def validate(document):
    ours = SCHEMAS / f"{document['kind']}.json"
    if ours.exists():
        jsonschema.validate(document, json.loads(ours.read_text()))
    else:
        kubernetes_validate.validate(document, VERSION, strict=True)


documents = []
for path in sys.argv[1:]:
    for document in yaml.safe_load_all(pathlib.Path(path).read_text()):
        try:
            validate(document)
        except Exception as error:
            sys.exit(f"{path}: {type(error).__name__}: {error}")
        documents.append(document)
json.dump(documents, sys.stdout)
