"""The small endpoints: health, readiness, the model list, and one model of it."""

from urllib.parse import quote

import pytest

from veridical.tests.answers import Fail, Say
from veridical.tests.proxy import listed


def test_health_says_nothing_of_the_backends(proxy):
    response = proxy.request("GET", "/health")
    assert (response.status, response.json) == (200, {"status": "ok"})


def test_ready_tells_of_each_backend(proxy):
    response = proxy.request("GET", "/ready")
    assert (response.status, response.json) == (200, {"ready": True, "backends": {"up": True}})


def test_every_model_is_listed_and_with_each_strategy(proxy):
    models = proxy.client.models.list().data
    assert [model.id for model in models] == listed("m1", "m2")
    assert {model.object for model in models} == {"model"}
    assert {model.owned_by for model in models} == {"up"}


@pytest.mark.parametrize(
    ("advertise", "names"),
    [([], ["m1"]), (["cove(variant=joint)", "direct"], ["m1", "m1+cove(variant=joint)", "m1+direct"])],
)
def test_the_configuration_chooses_what_is_advertised(serve, upstream, advertise, names):
    upstream.models = ["m1"]
    proxy = serve(advertise=advertise)
    assert [model.id for model in proxy.client.models.list().data] == names
    upstream.on(draft=Say(""))
    for name in names:
        assert proxy.client.models.retrieve(name).id == name
        assert proxy.chat(model=name).status == 200


def test_one_model_is_found_whatever_its_name_holds(serve, upstream):
    upstream.models = ["org/model:1", "a+b", "m 1"]
    proxy = serve()
    for name in ("org/model:1", "org/model:1+cove", "a+b", "a+b+cove", "m 1"):
        assert proxy.request("GET", f"/v1/models/{quote(name, safe='/+:')}").json["id"] == name
        assert proxy.request("GET", f"/v1/models/{quote(name, safe='')}").json["id"] == name
    response = proxy.request("GET", "/v1/models/org/modle:1")
    assert (response.status, response.error["code"]) == (404, "model_not_found")
    assert "'org/model:1'" in response.error["message"]


def test_models_of_all_backends_are_listed_and_one_that_is_down_is_left_out(serve, upstream):
    up = {"type": "http", "base_url": upstream.url}
    named = {"type": "http", "base_url": upstream.url, "models": {"mine": "m9"}}
    down = {"type": "http", "base_url": "http://127.0.0.1:9"}
    proxy = serve(backends={"down": down, "up": up, "named": named}, advertise=[])
    assert [model.id for model in proxy.client.models.list().data] == ["m1", "m2", "mine"]
    response = serve(backends={"down": down}).request("GET", "/v1/models")
    assert (response.status, response.error["code"]) == (502, "backend_unreachable")


def test_the_openapi_page_describes_the_chat(proxy):
    page = proxy.request("GET", "/openapi.json").json
    fields = page["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert {"model", "messages", "veridical"} <= fields["schema"]["properties"].keys()


def test_a_backend_that_refuses_the_key_says_so(serve, upstream):
    upstream.keys = {"Bearer sk-right": ["m1"]}
    response = serve().request("GET", "/v1/models", headers={"Authorization": "Bearer sk-wrong"})
    assert response.status == Fail(401).status
    assert "who are you" in response.error["message"]
