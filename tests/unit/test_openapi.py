#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/openapi.yaml says what the server does: routes, requests, and the shape of every object.

Usage: test_openapi.py OPENAPI_YAML PRINT_API
"""
import json
import subprocess
import sys
import unittest

import yaml

SPEC_PATH, PRINT_API = sys.argv[1:3]
with open(SPEC_PATH, encoding="utf-8") as spec_file:
    SPEC = yaml.safe_load(spec_file)
API = json.loads(subprocess.run([PRINT_API], check=True, capture_output=True, timeout=30).stdout)
METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}


def resolve(schema):
    while "$ref" in schema:
        node = SPEC
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


def operation(route):
    return SPEC["paths"][route["path"]][route["method"].lower()]


def faults(schema, value, where, seen):
    """What is wrong with `value`; `seen` collects the paths of the schema's fields that have a value."""
    schema = resolve(schema)
    if value is None:
        return [] if schema.get("nullable") else [f"{where} is null"]
    wanted = TYPES[schema.get("type", "object")]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return [f"{where} is {value!r}, not {schema.get('type')}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where} is {value!r}, not one of {schema['enum']}")
    if isinstance(value, list):
        for item in value:
            found += faults(schema["items"], item, where + "[]", seen)
    if isinstance(value, dict):
        found += object_faults(schema, value, where, seen)
    return found


def object_faults(schema, value, where, seen):
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    found = [f"{where}.{name} is missing" for name in schema.get("required", []) if name not in value]
    if not properties and not others:
        return found
    for name, item in value.items():
        if name in properties:
            seen.add(f"{where}.{name}")
            found += faults(properties[name], item, f"{where}.{name}", seen)
        elif others:
            found += faults(others, item, f"{where}.{name}", seen)
        else:
            found.append(f"{where}.{name} is not in the schema")
    return found


def all_fields(schema, where):
    schema = resolve(schema)
    if schema.get("type") == "array":
        yield from all_fields(schema["items"], where + "[]")
    for name, sub in schema.get("properties", {}).items():
        yield f"{where}.{name}"
        yield from all_fields(sub, f"{where}.{name}")


class OpenApi(unittest.TestCase):
    def test_every_route_is_described_and_every_description_has_a_route(self):
        served = {(r["path"], r["method"].lower()) for r in API["routes"]}
        described = {(path, m) for path, item in SPEC["paths"].items() for m in item if m in METHODS}
        self.assertEqual(served, described)

    def test_query_parameters_are_the_described_ones(self):
        for route in API["routes"]:
            described = {p["name"]: resolve(p["schema"])["type"]
                         for p in operation(route).get("parameters", []) if p["in"] == "query"}
            self.assertEqual({f["name"]: f["type"] for f in route["query"]}, described, route["path"])

    def test_path_parameters_are_described(self):
        for path, item in SPEC["paths"].items():
            named = {resolve(p)["name"] for p in item.get("parameters", []) if resolve(p)["in"] == "path"}
            self.assertEqual({part[1:-1] for part in path.split("/") if part.startswith("{")}, named, path)

    def test_request_bodies_have_the_described_fields(self):
        for route in API["routes"]:
            body = operation(route).get("requestBody")
            self.assertEqual(route["has_body"], body is not None, route["path"])
            if not body:
                continue
            schema = resolve(body["content"]["application/json"]["schema"])
            fields = {f["name"]: f for f in route["body"]}
            self.assertEqual({n: resolve(p)["type"] for n, p in schema["properties"].items()},
                             {n: f["type"] for n, f in fields.items()})
            self.assertEqual(set(schema.get("required", [])), {n for n, f in fields.items() if f["required"]})
            for name, field in fields.items():
                choices = field["choices"].split("|") if field["choices"] else None
                self.assertEqual(schema["properties"][name].get("enum"), choices, name)

    def test_event_streams_are_described_as_such(self):
        for route in API["routes"]:
            content = [kind for r in operation(route)["responses"].values() for kind in r.get("content", {})]
            self.assertEqual(route["events"], "text/event-stream" in content, route["path"])

    def test_objects_have_the_described_shape_and_no_field_is_left_out(self):
        for name, samples in API["objects"].items():
            schema, seen = SPEC["components"]["schemas"][name], set()
            for sample in samples:
                self.assertEqual(faults(schema, sample, name, seen), [])
            self.assertEqual(set(all_fields(schema, name)) - seen, set(), "no sample has these fields")

    def test_the_check_itself_finds_faults(self):
        job = dict(API["objects"]["Job"][0])
        for name, value in (("state", "flying"), ("final", "yes"), ("id", None), ("no_such_field", 1)):
            broken = dict(job, **{name: value})
            self.assertEqual(len(faults(SPEC["components"]["schemas"]["Job"], broken, "Job", set())), 1, name)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
