"""A list of other files or addresses under the name of a video: nothing that it names is opened."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from mvgan.config import InputError, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.media import encode_png, encode_video


class Listener:
    """Counts what connects to it, and answers every request with a real video."""

    def __init__(self, video: bytes) -> None:
        hits = self.hits = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hits.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(video)))
                self.end_headers()
                self.wfile.write(video)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener(encode_video(np.zeros((8, 3, 32, 32), np.uint8), 25, ".mp4"))
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def playlists(url: str, secret: Path) -> dict[str, str]:
    """By name: each asks for a video behind the listener's address, or for a local one beside or elsewhere."""
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
        '<AdaptationSet contentType="video" mimeType="video/mp4"><Representation id="1" bandwidth="1" width="32" height="32">'
        "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 15432 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    return {
        "hls.mp4": hls.format(f"{url}/hls.ts"),
        "hls_file.mp4": hls.format(secret),
        "hls_key.mp4": hls.format("x.ts").replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF'),
        "concat.mp4": f"ffconcat version 1.0\nfile '{url}/concat.mp4'\n",
        "concat_file.mp4": f"ffconcat version 1.0\nfile '{secret}'\n",
        "concat_beside.mp4": "ffconcat version 1.0\nfile beside.mp4\n",
        "dash.mp4": dash.format(f"{url}/dash.mp4"),
        "sdp.mp4": sdp,
        "asx.wmv": f'<asx version="3.0"><entry><ref href="{url}/asx.wmv"/></entry></asx>\n',
        "smil.mp4": f'<smil><body><video src="{url}/smil.mp4"/></body></smil>\n',
        "plain.mp4": f"{url}/plain.mp4\n",
        "rtsp.mov": f"rtsptextRTSP://127.0.0.1:{url.rpartition(':')[2]}/x\n",
    }


def test_playlists_are_rejected_and_make_no_request(listener: Listener, tmp_path: Path) -> None:
    """Names of files that libavformat would take for addresses or patterns are among them, with a real video inside."""
    video = encode_video(np.full((8, 3, 32, 32), 90, np.uint8), 25, ".mp4")
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(video)
    folder = tmp_path / "videos"
    folder.mkdir()
    lists = playlists(listener.url, secret)
    for name, text in lists.items():
        (folder / name).write_text(text)
    named = ["beside.mp4", "http:127.0.0.1.mp4", "concat:secret.mp4|beside.mp4", "img%03d.mp4", "pipe:0.mp4", "-i.mp4", "data:video.mp4"]
    for name in named:
        (folder / name).write_bytes(video)
    plan = plan_ingest(str(folder), str(tmp_path / "out"), Run(resolution=16))
    begin(plan)
    with pytest.raises(InputError, match=rf"{len(lists)} of {len(lists) + len(named)} videos"):
        finish(plan, map(ingest_group, plan.groups))  # that is more than half
    record = [ingest_group(group) for group in plan.groups]
    assert {item["source"] for part in record for item in part["rejected"]} == lists.keys()
    assert {item["source"] for part in record for item in part["videos"]} == set(named)
    assert listener.hits == []


def test_the_listener_would_have_seen_a_request(listener: Listener, tmp_path: Path) -> None:
    """The check of the check: libavformat without our limits follows the concat script, to the listener and to the file."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode_video(np.zeros((8, 3, 32, 32), np.uint8), 25, ".mp4"))
    script = tmp_path / "script.mp4"
    for text, hits in ((playlists(listener.url, secret)["concat_file.mp4"], 0), (playlists(listener.url, secret)["concat.mp4"], 1)):
        script.write_text(text)
        with av.open(str(script), options={"safe": "0", "protocol_whitelist": "file,http,tcp"}) as container:
            assert container.format.name == "concat"
        assert bool(listener.hits) == bool(hits)
    listener.hits.clear()


def test_a_picture_in_a_folder_is_no_playlist_either(listener: Listener, tmp_path: Path) -> None:
    folder = tmp_path / "frames" / "clip"
    folder.mkdir(parents=True)
    (folder / "f0.png").write_bytes(encode_png(np.zeros((3, 32, 32), np.uint8)))
    (folder / "f1.png").write_bytes(encode_png(np.zeros((3, 32, 32), np.uint8)))
    (folder / "f2.png").write_text(playlists(listener.url, tmp_path)["concat.mp4"])
    (folder / "f3.png").write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{listener.url}/x.png"/></svg>')
    run = Run(resolution=16)
    plan = plan_ingest(str(tmp_path / "frames"), str(tmp_path / "out"), Run(resolution=16, ingest=type(run.ingest)(fps=10)))
    begin(plan)
    manifest = finish(plan, map(ingest_group, plan.groups))
    assert manifest["videos"][0]["num_frames"] == 2 and "frame clip/f2.png cannot be opened" in manifest["videos"][0]["damaged"]
    assert listener.hits == []


@pytest.mark.parametrize("uri", ["http://{}/videos", "ftp://{}/videos", "file://{}/videos", "gs://bucket/videos"])
def test_other_schemes_are_refused(uri: str, listener: Listener, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the scheme"):
        plan_ingest(uri.format(listener.url.removeprefix("http://")), str(tmp_path / "out"), Run(resolution=16))
    assert listener.hits == []
