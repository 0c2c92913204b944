"""Answers: the same as `danlu predict`, whatever way the pictures are sent."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danlu.data.load import Data
from danlu.deploy.predict import predict
from danlu.deploy.serve.engine import Engine
from tests.deploy.serve.running import RAW, Client, encoded, form_of


def test_the_answers_are_those_of_predict(client: Client, artifact: Path, data: Data, tmp_path: Path) -> None:
    files = []
    for place in range(12):
        path = tmp_path / f"图 {place}.png"
        path.write_bytes(encoded(np.asarray(data.test[place].picture)))
        files.append(path)
    expected = predict(artifact, files, threads=1)
    body, kind = form_of([(path.name, path.read_bytes()) for path in files])
    reply = client.predict(body, kind, "/v1/predict?top=3")
    assert reply.status == 200
    document = reply.json()
    assert [row["file"] for row in document["predictions"]] == [path.name for path in files]
    for row, wanted in zip(document["predictions"], expected, strict=True):
        assert row["class"] == wanted["class"] == data.classes[row["index"]]
        found = [(entry["class"], entry["probability"]) for entry in row["top"]]
        assert found == [(entry["class"], pytest.approx(entry["probability"], abs=1e-6)) for entry in wanted["top"]]
    single = client.predict(files[3].read_bytes()).json()["predictions"]
    assert single[0]["class"] == expected[3]["class"]
    assert single[0]["file"] is None


def test_raw_pixels_are_pictures_too(client: Client, data: Data) -> None:
    pixels = np.stack([np.asarray(data.test[place].picture) for place in range(40)])
    shape = ",".join(str(side) for side in pixels.shape)
    document = client.predict(pixels.tobytes(), RAW, Danlu_Shape=shape).json()
    by_file = client.predict(encoded(pixels[7])).json()["predictions"][0]
    assert len(document["predictions"]) == 40
    assert document["predictions"][7]["probability"] == pytest.approx(by_file["probability"], abs=1e-6)
    # Another size is resized in the graph.
    large = np.repeat(np.repeat(pixels[:2], 5, axis=1), 5, axis=2)
    assert client.predict(large.tobytes(), RAW, Danlu_Shape="2,40,40,1").status == 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_b27_exif_orientation_is_that_of_training(client: Client, data: Data, orientation: int) -> None:
    upright = Image.fromarray(np.asarray(data.test[3].picture)[..., 0])
    turns = [None, 0, 3, 1, 5, 2, 6, 4]  # Pillow's transpositions that undo 1 to 8
    turn = turns[orientation - 1]
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    wanted = client.predict(encoded(np.asarray(upright))).json()["predictions"][0]
    found = client.predict(buffer.getvalue()).json()["predictions"][0]
    assert found["probability"] == wanted["probability"]
    assert found["top"] == wanted["top"]


NAMED_PART = b'--x\r\nContent-Disposition: form-data; name="pictures"; filename="a"\r\n\r\n1\r\n--x--\r\n'
BAD = [
    (b"", "image/png", {}, 400, "empty"),
    (b"<svg onload='alert(1)'/>", "image/svg+xml", {}, 400, "SVG"),
    (b"<!doctype html><script>", "image/png", {}, 400, "HTML"),
    (base64.b64encode(b"\x89PNG\r\n"), "image/png", {}, 400, "no picture"),
    (b"{}", "application/json", {}, 415, "application/json"),
    (b'{"url": "http://127.0.0.1:1/a.png"}', "application/json", {}, 415, "content type"),
    (b"http://127.0.0.1:1/a.png", "text/plain", {}, 415, "text/plain"),
    (b"http://127.0.0.1:1/a.png", "application/octet-stream", {}, 400, "no picture"),
    (b"x", "", {}, 415, "content type"),
    (b"0" * 64, RAW, {}, 400, "missing"),
    (b"0" * 64, RAW, {"Danlu_Shape": "1,8,8"}, 400, "no shape"),
    (b"0" * 64, RAW, {"Danlu_Shape": "1,8,8,3"}, 400, "[1, 8, 8, 3]"),
    (b"0" * 64, RAW, {"Danlu_Shape": "1,-8,8,1"}, 400, "no shape"),
    (b"0" * 64, RAW, {"Danlu_Shape": "1,8,9,1"}, 400, "the shape says 72"),
    (b"0" * 64, RAW, {"Danlu_Shape": "1000000,8,8,1"}, 400, "1000000"),
    (b"0" * 64, RAW, {"Danlu_Shape": "0,8,8,1"}, 400, "no pictures"),
    (b"0" * 64, RAW, {"Danlu_Shape": "NaN,8,8,1"}, 400, "no shape"),
    (NAMED_PART, "multipart/form-data; boundary=x; charset=undefined", {}, 400, "the form cannot be read"),
    (b"0" * 64, "image/png", {"Danlu_Deadline": "nan"}, 400, "nan"),
    (b"0" * 64, "image/png", {"Danlu_Deadline": "-1"}, 400, "-1"),
]


@pytest.mark.parametrize(("body", "kind", "headers", "status", "told"), BAD, ids=range(len(BAD)))
def test_b67_what_is_no_picture_is_named(
    client: Client, digit: bytes, body: bytes, kind: str, headers: dict[str, str], status: int, told: str
) -> None:
    reply = client.predict(body, kind, **headers)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert told in reply.json()["detail"]
    assert reply.json()["status"] == status
    assert client.predict(digit).status == 200  # the worker lives


def test_b67_a_form_is_judged_as_a_whole(client: Client, digit: bytes) -> None:
    body, kind = form_of([("good.png", digit), ("bad.png", b"GIF89a?")])
    problem = client.predict(body, kind).json()
    assert problem["status"] == 400
    assert problem["where"].startswith("pictures[1] (bad.png)")
    assert client.predict(*form_of([("a.png", digit)] * 65)).status == 400
    assert client.predict(*form_of([])).status == 400
    assert "under the name" in client.predict(*form_of([("a.png", digit)], field="url")).json()["detail"]


def test_b25_a_bomb_is_refused_before_it_is_decoded(client: Client) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    reply = client.predict(bomb.getvalue())
    assert reply.status == 413
    assert "40,000,000" in reply.json()["detail"]


@pytest.mark.parametrize("query", ["top=0", "top=x", "top=1001", "top=1e9"])
def test_bad_options_are_named(client: Client, digit: bytes, query: str) -> None:
    reply = client.predict(digit, path=f"/v1/predict?{query}")
    assert reply.status == 400
    assert reply.json()["where"] == "query.top"


def test_more_classes_than_there_are(client: Client, digit: bytes) -> None:
    (row,) = client.predict(digit, path="/v1/predict?top=1000").json()["predictions"]
    assert len(row["top"]) == 10
    assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-5)


def test_occlusion_says_where_the_digit_is(client: Client, engine: Engine, digit: bytes) -> None:
    document = client.predict(digit, path="/v1/explain?method=occlusion").json()
    assert document["method"] == "occlusion"
    assert np.asarray(document["values"]).shape == engine.occlusion_shape() == (8, 8)
    assert document["explained"] == document["top"][0]
    assert document["crop"] == {"left": 0, "top": 0, "width": 8, "height": 8}
    other = client.predict(digit, path="/v1/explain?index=3").json()
    assert other["explained"]["index"] == 3
    assert other["values"] != document["values"]
    refused = client.predict(digit, path="/v1/explain?method=activation")
    assert refused.status == 400
    assert "no activation maps" in refused.json()["detail"]
    assert client.predict(digit, path="/v1/explain?index=10").status == 400
