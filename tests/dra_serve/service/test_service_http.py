"""The contract of DESIGN 3.5 over a real connection: what good requests answer."""

import base64
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from dra_serve.attacks import ATTACKS
from dra_serve.model_folder import read_folder

from .conftest import CLASSES, Server, png, wait_until

MULTIPART: dict[str, Any] = {"files": {"image": ("a.png", png(), "image/png")}}


def test_predict_answers_as_the_model_does(http: httpx.Client, pair: list[Path]) -> None:
    answer = http.post("/v1/predict", **MULTIPART)
    assert answer.status_code == 200
    logits = read_folder(pair[0]).classifier().logits(_x(png()))[0].astype(np.float64)
    probs = np.exp(logits) / np.exp(logits).sum()
    prediction = answer.json()["predictions"][0]
    assert answer.json()["model"] == "tiny-dra"
    assert prediction["label"] == CLASSES[int(probs.argmax())]
    assert [entry["label"] for entry in prediction["top"]] == [CLASSES[k] for k in np.argsort(-probs)]
    assert_allclose([entry["score"] for entry in prediction["top"]], np.sort(probs)[::-1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_the_body_may_be_the_image_itself(http: httpx.Client, kind: str) -> None:
    raw = http.post("/v1/predict?top_k=2", content=png(), headers={"Content-Type": kind})
    form = http.post("/v1/predict", data={"top_k": "2"}, **MULTIPART)
    assert raw.status_code == 200
    assert raw.json() == form.json()
    assert len(raw.json()["predictions"][0]["top"]) == 2


def test_several_images_answer_in_order(http: httpx.Client) -> None:
    parts = [("image", (f"{k}.png", png(seed=k), "image/png")) for k in range(3)]
    together = http.post("/v1/predict", files=parts, data={"model": "tiny-at"}).json()["predictions"]
    singly = [
        http.post("/v1/predict", files=[part], data={"model": "tiny-at"}).json()["predictions"][0]
        for part in parts
    ]
    assert [p["label"] for p in together] == [p["label"] for p in singly]
    assert_allclose([p["score"] for p in together], [p["score"] for p in singly], rtol=1e-5)


def test_another_size_is_scaled_when_asked(http: httpx.Client) -> None:
    answer = http.post("/v1/predict?resize=true", content=png(40, 30), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200


def test_attack_judges_the_image_it_returns(http: httpx.Client) -> None:
    answer = http.post("/v1/attack", data={"eps": "8/255", "steps": "20"}, **MULTIPART).json()
    assert answer["attack"] == {
        "name": "pgd",
        "norm": "linf",
        "eps": 8 / 255,
        "alpha": 2.5 * 8 / 255 / 20,
        "steps": 20,
        "restarts": 1,
        "random_start": True,
        "loss": "ce",
        "seed": 0,
        "label": None,
        "target": None,
    }
    assert [result["model"] for result in answer["results"]] == ["tiny-dra", "tiny-at"]
    clean = _x(png())
    for result in answer["results"]:
        image = _png_of(result)
        delta = np.abs(_x(image) - clean).max()
        assert_allclose(delta, result["linf"], atol=1e-6)
        assert result["linf"] <= 8 / 255
        again = http.post(
            "/v1/predict",
            params={"model": result["model"]},
            content=image,
            headers={"Content-Type": "image/png"},
        ).json()["predictions"][0]
        assert again == {key: result["adversarial"][key] for key in ("label", "score", "top")}
        assert result["success"] == (again["label"] != result["label"])
        assert result["complete"]


def test_transfer_is_what_each_model_says_to_each_image(http: httpx.Client) -> None:
    answer = http.post("/v1/attack", data={"eps": "16/255"}, **MULTIPART).json()
    assert any(result["success"] for result in answer["results"])
    for source in answer["results"]:
        for victim in answer["results"]:
            seen = http.post(
                "/v1/predict",
                params={"model": victim["model"]},
                content=_png_of(source),
                headers={"Content-Type": "image/png"},
            ).json()["predictions"][0]["label"]
            fooled = seen != victim["label"]
            assert answer["transfer"][source["model"]][victim["model"]] == fooled


def test_the_same_seed_gives_the_same_answer(http: httpx.Client) -> None:
    fields = {"models": "tiny-at", "eps": "2/255", "steps": "3", "seed": "5"}
    first, second = (http.post("/v1/attack", data=fields, **MULTIPART).json() for _ in range(2))
    other = http.post("/v1/attack", data=fields | {"seed": "6"}, **MULTIPART).json()
    assert first == second
    assert first["results"][0]["adversarial"] != other["results"][0]["adversarial"]


def test_a_targeted_attack_counts_only_the_target(http: httpx.Client) -> None:
    clean = http.post("/v1/predict", **MULTIPART).json()["predictions"][0]
    target = clean["top"][1]["label"]
    fields = {"models": "tiny-dra", "target": target, "eps": "64/255", "steps": "40"}
    result = http.post("/v1/attack", data=fields, **MULTIPART).json()["results"][0]
    assert result["success"]
    assert result["adversarial"]["label"] == target


def test_an_l2_attack_and_fgsm_are_measured_in_their_norm(http: httpx.Client) -> None:
    l2 = http.post("/v1/attack", data={"norm": "l2", "eps": "0.5"}, **MULTIPART).json()
    assert all(0 < result["l2"] < 0.55 for result in l2["results"])
    fgsm = http.post("/v1/attack", data={"attack": "fgsm", "eps": "1/255"}, **MULTIPART).json()
    assert fgsm["attack"]["steps"] == 1
    assert all(result["linf"] == 1 / 255 for result in fgsm["results"])


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_answers_with_each_value_in_force(http: httpx.Client, name: str) -> None:
    short = {key: "5" for key in ("steps", "queries") if key in ATTACKS[name].options}
    data = {"attack": name, "eps": "2/255", "models": "tiny-dra", **short}
    answer = http.post("/v1/attack", data=data, **MULTIPART).json()
    in_force = ATTACKS[name].resolve((3, 8, 8), eps="2/255", **dict.fromkeys(short, 5)).as_dict()
    assert answer["attack"] == {"name": name, "label": None, "target": None, **in_force}
    assert answer["results"][0]["linf"] <= 2 / 255


def test_a_target_is_refused_by_an_attack_that_takes_none(http: httpx.Client) -> None:
    for name in (name for name, attack in ATTACKS.items() if not attack.takes_target):
        data = {"attack": name, "target": "cat"}
        problem = http.post("/v1/attack", data=data, **MULTIPART).json()
        assert problem["field"] == "target"
        assert "pgd" in problem["detail"]


def test_a_true_label_the_model_misses_needs_no_attack(http: httpx.Client) -> None:
    clean = http.post("/v1/predict", **MULTIPART).json()["predictions"][0]
    fields = {"models": "tiny-dra", "label": clean["top"][-1]["label"]}
    result = http.post("/v1/attack", data=fields, **MULTIPART).json()["results"][0]
    assert result["success"]
    assert (result["steps_done"], result["linf"]) == (0, 0)


def test_models_tell_what_they_are_and_how_they_were_measured(http: httpx.Client) -> None:
    answer = http.get("/v1/models").json()
    assert (answer["default"], answer["pair"]) == ("tiny-dra", ["tiny-dra", "tiny-at"])
    first = answer["models"][0]
    assert first["classes"] == list(CLASSES)
    assert first["input_shape"] == [3, 8, 8]
    assert first["threat"] == {"norm": "linf", "eps": "8/255"}
    assert first["receipts"][0]["robust_accuracy"] == 0.5


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(http: httpx.Client) -> None:
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        http.get("/livez")
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.03  # without TCP_NODELAY every one takes 40 ms


def test_health_says_alive_and_ready(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"status": "alive"}
    assert http.get("/readyz").json() == {"status": "ready"}


def test_metrics_count_by_route_whatever_paths_clients_try(http: httpx.Client) -> None:
    for k in range(20):
        http.get(f"/nothing/{k}")
        http.get(f"/v1/models/{k}")
    http.request("BREW", "/v1/models")
    http.post("/v1/predict", **MULTIPART)
    lines = http.get("/metrics").text.splitlines()
    requests = [line for line in lines if line.startswith("dra_requests_total{")]
    assert any('route="/v1/predict",status="200"' in line for line in requests)
    assert sum('method="GET",route="other"' in line for line in requests) == 1
    assert not any("nothing" in line for line in lines)
    assert any('method="OTHER",route="/v1/models",status="405"' in line for line in requests)


def test_the_root_leads_to_the_docs_which_load_nothing_from_elsewhere(http: httpx.Client) -> None:
    root = http.get("/", follow_redirects=True)
    assert root.url.path == "/docs"
    assert root.headers["Content-Type"].startswith("text/html")
    assert "http://" not in root.text
    assert "https://" not in root.text


def test_openapi_names_every_route_field_and_problem(http: httpx.Client) -> None:
    api = http.get("/openapi.json").json()
    assert api["openapi"].startswith("3.1")
    assert set(api["paths"]) == {
        "/v1/predict",
        "/v1/attack",
        "/v1/attack/stream",
        "/v1/models",
        "/livez",
        "/readyz",
        "/metrics",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/repository/index",
        "/v2/models/stats",
        *(
            f"/v2/models/{{model}}{version}{end}"
            for version in ("", "/versions/{version}")
            for end in ("", "/ready", "/config", "/stats", "/infer")
        ),
    }
    attack = api["paths"]["/v1/attack"]["post"]
    form = attack["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["additionalProperties"] is False
    assert set(form["properties"]) == {
        "image", "models", "attack", "norm", "eps", "alpha", "steps", "restarts", "queries", "seed",
        "label", "target", "top_k", "resize",
    }  # fmt: skip
    assert form["properties"]["steps"]["maximum"] == 200
    for status in ("400", "404", "413", "415", "422", "429", "503"):
        assert list(attack["responses"][status]["content"]) == ["application/problem+json"]


def test_every_request_is_one_line_with_its_id(server: Server, http: httpx.Client) -> None:
    answer = http.post("/v1/predict", **MULTIPART)
    wait_until(lambda: answer.headers["X-Request-Id"] in server.lines[-1])
    lines = [entry for entry in server.log() if entry["id"] == answer.headers["X-Request-Id"]]
    assert len(lines) == 1
    assert {key: lines[0][key] for key in ("event", "method", "route", "status")} == {
        "event": "request",
        "method": "POST",
        "route": "/v1/predict",
        "status": 200,
    }
    assert lines[0]["ms"] > 0
    assert "Server" not in answer.headers


def _png_of(result: dict[str, Any]) -> bytes:
    head, _, data = result["adversarial"]["image"].partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data)


def _x(image: bytes) -> np.ndarray:
    """Decoded by Pillow alone, not by the code under test."""
    pixels = np.asarray(Image.open(BytesIO(image)).convert("RGB"), dtype=np.float32)
    return pixels.transpose(2, 0, 1)[None] / np.float32(255)
