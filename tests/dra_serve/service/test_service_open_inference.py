"""/v2 as its clients see it: Triton's own client, the protocol by hand, and what is refused."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.testing import assert_allclose, assert_array_equal
from tritonclient.utils import InferenceServerException

from dra_serve.model_folder import read_folder

from .conftest import CLASSES, Server, png

INFER = "/v2/models/tiny-dra/infer"
LENGTH = "Inference-Header-Content-Length"
X = np.random.default_rng(3).random((2, 3, 8, 8), dtype=np.float32)


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(pair: list[Path]) -> dict[str, np.ndarray]:
    logits = read_folder(pair[0]).classifier().logits(X)
    probs = np.exp(logits.astype(np.float64))
    return {"logits": logits, "probabilities": probs / probs.sum(axis=1, keepdims=True)}


def tensor(x: np.ndarray = X, **replaced: Any) -> dict[str, Any]:
    described = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return {**described, **replaced}


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_models_logits(
    client: triton.InferenceServerClient, expected: dict[str, np.ndarray], binary: bool, version: str
) -> None:
    x = triton.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in expected]
    result = client.infer("tiny-dra", [x], outputs=outputs, request_id="mine", model_version=version)
    for name, values in expected.items():
        assert_allclose(result.as_numpy(name), values, rtol=1e-5, atol=1e-6)
    assert result.get_response()["id"] == "mine"
    everything = client.infer("tiny-dra", [x])  # no outputs named: all of them
    assert_array_equal(everything.as_numpy("logits"), result.as_numpy("logits"))
    assert_array_equal(everything.as_numpy("probabilities"), result.as_numpy("probabilities"))


def test_tritons_client_reads_what_there_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny-dra")
    assert client.is_model_ready("tiny-dra", "1")
    assert not client.is_model_ready("tiny-dra", "2")
    assert not client.is_model_ready("gpt")
    assert client.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "statistics",
    ]
    assert client.get_model_metadata("tiny-dra") == {
        "name": "tiny-dra",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, 4]} for name in ("logits", "probabilities")
        ],
    }
    config = client.get_model_config("tiny-at")
    assert config["max_batch_size"] == 32
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, 8, 8]}]
    assert json.loads(config["parameters"]["classes"]["string_value"]) == list(CLASSES)
    index = client.get_model_repository_index()
    assert [(entry["name"], entry["state"]) for entry in index] == [
        (name, "READY") for name in ("tiny-dra", "tiny-at", "slow")
    ]


def test_statistics_count_what_tritons_client_asked(client: triton.InferenceServerClient) -> None:
    def told() -> dict[str, Any]:
        stats: dict[str, Any] = client.get_inference_statistics("tiny-at", "1")["model_stats"][0]
        return stats

    before = told()
    x = triton.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X)
    for _ in range(3):
        client.infer("tiny-at", [x])
    after = told()
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    assert [entry["batch_size"] for entry in after["batch_stats"]].count(2) == 1
    every = client.get_inference_statistics()["model_stats"]
    assert [entry["name"] for entry in every] == ["tiny-dra", "tiny-at", "slow"]


def test_json_comes_flat_or_nested_and_says_what_predict_says(http: httpx.Client) -> None:
    pixels = np.asarray(
        np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.float32
    ) / np.float32(255)  # those of png()
    x = pixels.transpose(2, 0, 1)[None]
    flat = http.post(INFER, json={"inputs": [tensor(x)], "outputs": [{"name": "probabilities"}]}).json()
    nested = http.post(INFER, json={"inputs": [tensor(x, data=x.tolist())]}).json()
    predicted = http.post("/v1/predict", content=png(), headers={"Content-Type": "image/png"}).json()
    (probabilities,) = flat["outputs"]
    scores = dict(zip(CLASSES, probabilities["data"], strict=True))
    for entry in predicted["predictions"][0]["top"]:
        assert_allclose(scores[entry["label"]], entry["score"], rtol=1e-5)
    assert [output["name"] for output in nested["outputs"]] == ["logits", "probabilities"]
    assert nested["outputs"][1] == probabilities
    assert (flat["model_name"], flat["model_version"], "id" in flat) == ("tiny-dra", "1", False)


def test_binary_and_json_outputs_mix(http: httpx.Client, expected: dict[str, np.ndarray]) -> None:
    outputs = [{"name": "probabilities"}, {"name": "logits", "parameters": {"binary_data": True}}]
    answer = http.post(INFER, json={"inputs": [tensor()], "outputs": outputs})
    length = int(answer.headers[LENGTH])
    head = json.loads(answer.content[:length])
    assert_allclose(head["outputs"][0]["data"], expected["probabilities"].ravel(), rtol=1e-5)
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 2 * 4 * 4}
    logits = np.frombuffer(answer.content[length:], "<f4").reshape(2, 4)
    assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-6)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({}, "body.inputs: got nothing"),
    "unknown key": ({"inputs": [tensor()], "extra": 1}, "body.extra: got it; allowed: in body: inputs"),
    "two inputs": ({"inputs": [tensor(), tensor()]}, "inputs: got 2 tensors; allowed: one tensor, x"),
    "inputs text": ({"inputs": "x"}, "inputs: got x; allowed: one tensor"),
    "input number": ({"inputs": [3]}, "inputs[0]: got 3; allowed: an object"),
    "name": ({"inputs": [tensor(name="y")]}, "inputs[0].name: got y; allowed: x"),
    "datatype": ({"inputs": [tensor(datatype="UINT8")]}, "inputs[0].datatype: got UINT8; allowed: FP32"),
    "no images": ({"inputs": [tensor(X[:0])]}, "inputs[0].shape: got [0, 3, 8, 8]; allowed: [1 to 32"),
    "33 images": ({"inputs": [tensor(shape=[33, 3, 8, 8])]}, "inputs[0].shape: got [33, 3, 8, 8]"),
    "other size": ({"inputs": [tensor(shape=[2, 3, 4, 16])]}, "inputs[0].shape: got [2, 3, 4, 16]"),
    "negative": ({"inputs": [tensor(shape=[-2, 3, 8, 8])]}, "inputs[0].shape: got"),
    "true shape": ({"inputs": [tensor(shape=[True, 3, 8, 8])]}, "inputs[0].shape: got"),
    "too few": ({"inputs": [tensor(data=[0.5])]}, "inputs[0].data: got numbers of shape [1]; allowed: 384"),
    "ragged": ({"inputs": [tensor(data=[[1], [1, 2]])]}, "inputs[0].data: got uneven lists"),
    "text": ({"inputs": [tensor(data=["a"] * 384)]}, "inputs[0].data: got something else than numbers"),
    "booleans": ({"inputs": [tensor(data=[True] * 384)]}, "inputs[0].data: got something else"),
    "texts, one of them long": (
        {"inputs": [tensor(data=["a" * 100_000] + [""] * 500_000)]},
        "inputs[0].data: got something else than numbers",
    ),
    "a text at the end": ({"inputs": [tensor(data=[0.5] * 383 + ["0.5"])]}, "inputs[0].data: got something"),
    "a list at the end": ({"inputs": [tensor(data=[0.5] * 383 + [[0.5]])]}, "inputs[0].data: got something"),
    "nothing": ({"inputs": [tensor(data=[])]}, "inputs[0].data: got numbers of shape [0]"),
    "empty lists": ({"inputs": [tensor(data=[[], []])]}, "inputs[0].data: got numbers of shape [2, 0]"),
    "other nesting": (
        {"inputs": [tensor(data=[[0.5] * 384])]},
        "inputs[0].data: got numbers of shape [1, 384]",
    ),
    "half precision": ({"inputs": [tensor(datatype="FP16")]}, "inputs[0].datatype: got FP16; allowed: FP32"),
    "bytes": ({"inputs": [tensor(datatype="BYTES", data=["a"])]}, "inputs[0].datatype: got BYTES"),
    "a product that overflows": (
        {"inputs": [tensor(shape=[2**62, 2**62, 8, 8])]},
        "inputs[0].shape: got [4611686018427387904, ",
    ),
    "a size of 4,000 digits": ({"inputs": [tensor(shape=[10**3999, 3, 8, 8])]}, "inputs[0].shape: got [1000"),
    "half a character as a key": ({"inputs": [tensor()], "\ud800": 1}, "body.?: got it"),
    "half a character as a value": ({"inputs": [tensor(name="\ud800")]}, "inputs[0].name: got ?"),
    "null": ({"inputs": [tensor(data=None)]}, "inputs[0].data: got something else"),
    "above 1": ({"inputs": [tensor(data=[255] * 384)]}, "inputs[0].data: got values from 255 to 255"),
    "below 0": ({"inputs": [tensor(data=[-0.1] * 384)]}, "inputs[0].data: got values from -0.1"),
    "huge": ({"inputs": [tensor(data=[10**400] * 384)]}, "inputs[0].data: got something else"),
    "float32 overflow": ({"inputs": [tensor(data=[1e300] * 384)]}, "inputs[0].data: got values from inf"),
    "no data": (
        {"inputs": [{k: v for k, v in tensor().items() if k != "data"}]},
        "inputs[0].data: got neither",
    ),
    "output": (
        {"inputs": [tensor()], "outputs": [{"name": "top"}]},
        "outputs[0].name: got top; allowed: logits",
    ),
    "output list": ({"inputs": [tensor()], "outputs": [{"name": []}]}, "outputs[0].name: got []"),
    "outputs": ({"inputs": [tensor()], "outputs": []}, "outputs: got []; allowed: 1 to 2"),
    "twice": (
        {"inputs": [tensor()], "outputs": [{"name": "logits"}, {"name": "logits"}]},
        "outputs[1].name: got logits",
    ),
    "classification": (
        {"inputs": [tensor()], "outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
        "outputs[0].parameters.classification: got it; allowed: in outputs[0].parameters: binary_data",
    ),
    "flag": (
        {"inputs": [tensor()], "parameters": {"binary_data_output": 1}},
        "parameters.binary_data_output: got 1",
    ),
    "id": ({"inputs": [tensor()], "id": 7}, "id: got 7; allowed: text"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_in_the_protocols_form(http: httpx.Client, case: str) -> None:
    request, says = WRONG[case]
    answer = http.post(INFER, content=json.dumps(request))
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert answer.json()["error"].startswith(says), answer.json()


@pytest.mark.parametrize("depth", [100, *range(900, 1000, 7), *range(980, 1000)])
def test_deep_nesting_is_refused_however_deep_the_reader_goes(http: httpx.Client, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    inputs = f'{{"inputs": {nested}}}', f'{{"inputs": [{json.dumps(tensor(data=None))[:-5]}{nested}}}]}}'
    answers = [http.post(INFER, content=content) for content in inputs]
    answers.append(http.post("/v2/repository/index", content=f'{{"ready": {nested}}}'))
    for answer in answers:
        assert (answer.status_code in (400, 422), list(answer.json())) == (True, ["error"])


def test_an_id_comes_back_whatever_its_characters(http: httpx.Client) -> None:
    for name in ("", "é\0", "\ud800"):
        answer = http.post(INFER, content=json.dumps({"inputs": [tensor()], "id": name}))
        assert answer.json()["id"] == name


def test_a_large_body_of_nothing_is_refused_before_everybody_waits_for_it(http: httpx.Client) -> None:
    begun = time.monotonic()
    answer = http.post("/v2/repository/index", content=b'{"ready":[' + b"[]," * 5_000_000 + b"0]}")
    assert (answer.status_code, answer.json()) == (413, {"error": "body: more than 4,096 bytes"})
    assert time.monotonic() - begun < 5


def body(x: bytes, **replaced: Any) -> bytes:
    described = {k: v for k, v in tensor().items() if k != "data"}
    described["parameters"] = {"binary_data_size": len(x)}
    return json.dumps({"inputs": [{**described, **replaced}]}).encode()


RAW = X.tobytes()
HEAD = body(RAW)


@pytest.mark.parametrize(
    ("content", "length", "status", "says"),
    [
        (b"", None, 400, "body: no JSON"),
        (b"\xff{", None, 400, "body: no JSON"),
        (b"[" * 100_000, None, 400, "body: no JSON"),
        (b'{"inputs": NaN}', None, 400, "body: no JSON"),
        (b"[1]", None, 422, "body: got [1]; allowed: an object"),
        (HEAD + RAW, "0", 422, LENGTH),
        (HEAD + RAW, "-5", 422, LENGTH),
        (HEAD + RAW, "1e3", 422, LENGTH),
        (HEAD + RAW, "9" * 30, 422, LENGTH),
        (HEAD + RAW, str(len(HEAD + RAW) + 1), 422, f"{LENGTH}: got"),
        (HEAD + RAW, str(len(HEAD) - 1), 400, "body: no JSON"),
        (HEAD + RAW[:-1], str(len(HEAD)), 422, "body: got 1,535 bytes behind the JSON; allowed: 1,536"),
        (HEAD + RAW + b"\0", str(len(HEAD)), 422, "body: got 1,537 bytes"),
        (body(RAW[:-4]) + RAW[:-4], None, 400, "body: no JSON"),
        (HEAD, None, 422, "body: got 0 bytes behind the JSON"),
    ],
)
def test_a_binary_body_must_add_up(
    http: httpx.Client, content: bytes, length: str | None, status: int, says: str
) -> None:
    headers = {} if length is None else {LENGTH: length}
    answer = http.post(INFER, content=content, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert answer.json()["error"].startswith(says), answer.json()


@pytest.mark.parametrize("size", [True, 1536.0, "1536", 1532, -1, None])
def test_a_binary_size_other_than_the_shapes_is_refused(http: httpx.Client, size: Any) -> None:
    head = body(RAW, parameters={"binary_data_size": size})
    answer = http.post(INFER, content=head + RAW, headers={LENGTH: str(len(head))})
    assert answer.json()["error"].startswith("inputs[0].parameters.binary_data_size: got")
    assert answer.json()["error"].endswith("allowed: 1,536, the bytes of FP32 [2, 3, 8, 8]")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.01, -0.01])
def test_binary_values_are_checked_as_well(http: httpx.Client, bad: float) -> None:
    x = X.copy()
    x[1, 2, 3, 4] = bad
    answer = http.post(INFER, content=HEAD + x.tobytes(), headers={LENGTH: str(len(HEAD))})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("inputs[0].data: got values from")


def test_data_twice_and_bytes_beside_json_are_refused(http: httpx.Client) -> None:
    both = body(RAW, data=X.ravel().tolist())
    answer = http.post(INFER, content=both + RAW, headers={LENGTH: str(len(both))})
    assert answer.json()["error"].startswith("inputs[0].data: got both")
    plain = json.dumps({"inputs": [tensor()]}).encode()
    answer = http.post(INFER, content=plain + b"more", headers={LENGTH: str(len(plain))})
    assert answer.json()["error"].startswith("body: got 4 bytes behind the JSON")


def test_unknown_models_versions_paths_methods_and_sizes_answer_in_the_same_form(
    http: httpx.Client, client: triton.InferenceServerClient
) -> None:
    plain = json.dumps({"inputs": [tensor()]})
    large = b" " * (16 * 2**20 + 1)
    answers = {
        "model: got gpt; allowed: tiny-dra": (404, http.post("/v2/models/gpt/infer", content=plain)),
        "version: got 7; allowed: 1": (404, http.post("/v2/models/tiny-dra/versions/7/infer", content=plain)),
        "there is nothing here": (404, http.get("/v2/nothing")),
        "allowed here: POST": (405, http.get(INFER)),
        "body: more than": (413, http.post(INFER, content=large)),
        "Content-Encoding: got 'gzip'": (
            415,
            http.post(INFER, content=plain, headers={"Content-Encoding": "gzip"}),
        ),
        "body: must be empty": (400, http.post("/v2/repository/index", content=b"{")),
        "ready: got 1": (422, http.post("/v2/repository/index", json={"ready": 1})),
    }
    for says, (status, answer) in answers.items():
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json()["error"].startswith(says)
    x = triton.InferInput("x", [1, 3, 9, 9], "FP32")
    x.set_data_from_numpy(np.zeros((1, 3, 9, 9), np.float32))
    with pytest.raises(InferenceServerException, match=r"allowed: \[1 to 32, 3, 8, 8\]"):
        client.infer("tiny-dra", [x])
