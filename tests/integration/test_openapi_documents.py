"""What holds for the OpenAPI documents of all faces: nothing is left out, and their examples are true."""

from typing import Any

import pytest
from openapi_spec_validator import validate

from app import docs
from tests.openapi import by_route, check, examples
from tests.web import Web

BASES = ("/api", "/v2.1", "/identity")
URLS = [document["url"] for document in docs.DOCUMENTS]


def routes(web: Web) -> dict[tuple[str, str], Any]:
    """List the views of all faces by method and path, as documents write it."""
    return {
        (method, rule.rule.replace("<", "{").replace(">", "}")): web.app.view_functions[rule.endpoint]
        for rule in web.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(BASES)
    }


def test_every_route_of_a_face_is_in_one_document(web: Web):
    documented = [route for url in URLS for route in by_route(web.http.get(url).json)]
    assert sorted(documented) == sorted(routes(web))


@pytest.mark.parametrize("url", URLS)
class TestDocument:
    def test_is_valid(self, web: Web, url: str):
        document = web.http.get(url).json
        validate(document)
        assert document["openapi"].startswith("3.0.")

    def test_every_operation_names_the_errors_it_may_have(self, web: Web, url: str):
        views = routes(web)
        for route, operation in by_route(web.http.get(url).json).items():
            wanted = set()
            if operation.get("security") != []:
                wanted |= {"401", "429", "503"}
            if getattr(views[route], "required_scopes", None):
                wanted |= {"403"}
                wanted |= {"404"} if "{" in route[1] else set()
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                wanted |= {"400", "413", "415"}
            assert wanted <= set(operation["responses"]), route
            assert any(status < "400" for status in operation["responses"]), route

    def test_every_operation_refuses_who_has_no_key(self, web: Web, url: str):
        for (method, path), operation in by_route(web.http.get(url).json).items():
            if operation.get("security") != []:
                headers = {"X-Subject-Token": "x"}
                response = web.http.open(path.replace("{", "").replace("}", ""), method=method, headers=headers)
                assert response.status_code == 401, (method, path)

    def test_every_example_fits_its_schema(self, web: Web, url: str):
        document = web.http.get(url).json
        seen = list(examples(document))
        for schema, example in seen:
            check(document, schema, example)
        assert len(seen) >= 15
