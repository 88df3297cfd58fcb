import base64
import contextlib
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from pipeline import record, storage
from pipeline.evals import compare
from pipeline.evals.markdown import NOTE_CHARS, note
from pipeline.stage import Artifact
from pipeline.stages.report import Report, gather, report

TITLE = "ViT-S/16 on fractals"
SHOTS = (1, 5, 10, 25)
ACCURACY = {  # (pre-trained, random) at 1, 5, 10, 25 shots, then linear, knn-20, finetune
    "digits": ((0.42, 0.68, 0.79, 0.88, 0.951, 0.941, 0.9912), (0.25, 0.41, 0.52, 0.63, 0.81, 0.74, 0.9807)),
    "oxford-flowers-102": ((0.31, 0.55, 0.66, 0.74, 0.83, 0.71, 0.8721), (0.04, 0.09, 0.12, 0.17, 0.24, 0.15, 0.4213)),
    "textures": ((0.11, 0.21, 0.27, 0.36, 0.41, 0.33, 0.4410), (0.06, 0.09, 0.11, 0.15, 0.18, 0.14, 0.4390)),
}


class Notebook:
    """A `Track` that keeps what it is told."""

    def __init__(self):
        self.artifacts, self.notes = {}, []

    def params(self, values): ...
    def metrics(self, values, *, step=0): ...
    def tags(self, values): ...
    def dataset(self, *, name, digest, source, context): ...

    def artifact(self, name, data):
        self.artifacts[name] = data

    def note(self, markdown):
        self.notes.append(markdown)

    def child(self, name, *, kind="trial"):
        return contextlib.nullcontext(self)


def transfer_rows(task):
    rows = []
    for init, accuracies in zip((compare.PRETRAINED, compare.RANDOM), ACCURACY[task], strict=True):
        common = {"task": task, "metric": "top1", "init": init, "checkpoint": "runs/quickstart/pretrain/weights"}
        common |= {"checkpoint_digest": "3f9a1c2b77d0"}
        for shots, mean in zip(SHOTS, accuracies, strict=False):
            values = [mean - 0.2 / (10 + shots), mean, mean + 0.25 / (10 + shots)]
            rows.append(compare.row(protocol=f"{shots}-shot", values=values, seeds=[0, 1, 2], **common))
        for protocol, mean in zip(("linear", "knn-20"), accuracies[4:], strict=False):
            rows.append(compare.row(protocol=protocol, values=[mean], seeds=[0], **common))
    return rows


def finetune_rows(task):
    rows = []
    for init, accuracies, lr in zip(
        (compare.PRETRAINED, compare.RANDOM), ACCURACY[task], ("0.01", "0.03"), strict=True
    ):
        values = [accuracies[-1] - 0.002, accuracies[-1], accuracies[-1] + 0.003]
        grid = {"0.001": values[0] - 0.2, "0.003": values[0] - 0.06, "0.01": values[0] - 0.01, "0.03": values[0] - 0.01}
        grid[lr] += 0.005
        details = {"lr": float(lr), "grid": grid}
        row = {"task": task, "protocol": "finetune", "metric": "top1", "init": init, "details": details}
        row |= {"checkpoint": "runs/quickstart/pretrain/weights", "checkpoint_digest": "3f9a1c2b77d0"}
        rows.append(compare.row(values=values, seeds=[0, 1, 2], **row))
    return rows


def pretrain_result():
    points = [
        (100 * i, 6.9 / (1 + 0.03 * i) + 0.2 * ((7 * i) % 5) / 5, 3e-3 * min(i / 20, 1, (300 - i) / 200))
        for i in range(1, 300)
    ]
    history = [[step, loss, lr, 1450 + (step // 100 * 13) % 60, 0.01 + 0.002 * (step % 7)] for step, loss, lr in points]
    return {
        "weights": "runs/quickstart/pretrain/weights/step-0000029900.safetensors",
        "digest": "3f9a1c2b77d0e4a1",
        "steps": 29_900,
        "images": 30_617_600,
        "loss": 0.8127,
        "top1": 0.7534,
        "parameters": 22_050_664,
        "images_per_s": 1472.4,
        "train_flops": 8.45e17,
        "wall_s": 20_812.0,
        "history": history,
        "model": "ViT-S/16",
        "data": "fractals",
    }


def make(root):
    """Finished stages below `root`, records beside them."""
    named = {"weights": ("pretrain", pretrain_result())}
    for task in ACCURACY:
        named[f"{task}_frozen"] = (f"transfer/{task}", {"rows": transfer_rows(task)})
        named[f"{task}_tuned"] = (f"finetune/{task}", {"rows": finetune_rows(task)})
    artifacts = {}
    for place, (name, (stage, result)) in enumerate(named.items()):
        build = f"{place:032x}"
        artifacts[name] = Artifact(build, stage, str(root / stage), result)
        record.write(artifacts[name].uri, record.Record(build, stage, {}, {}, {}, "8c1f2e0", result))
    return artifacts


@pytest.fixture
def results(tmp_path):
    return make(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, result, track) of one report, which the tests that change nothing share."""
    root = tmp_path_factory.mktemp("run")
    return root, *write(root, make(root))


def write(root, results, **changes):
    track = Notebook()
    config = Report(**{"title": TITLE, "command": "tessera run configs/quickstart.py", **changes})
    result = report(config, out=str(root / "report"), cluster=None, track=track, **results)
    return result, track


def read(result, name):
    return storage.read(result[name]).decode()


class Strict(HTMLParser):
    """Fails on a tag that is closed out of turn, and keeps links and ids."""

    VOID = frozenset({"meta", "br", "img", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self._attrs(attrs)

    def handle_startendtag(self, tag, attrs):
        self._attrs(attrs)

    def _attrs(self, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_writes_three_files_and_hands_them_to_the_tracker(written):
    root, result, track = written
    assert sorted(track.artifacts) == ["report.html", "report.md", "transfer.json"]
    assert storage.listing(str(root / "report")) == ["report.html", "report.md", "transfer.json"]
    assert track.artifacts["report.html"].decode() == read(result, "html")
    assert json.loads(json.dumps(result))["num_rows"] == 3 * 2 * 7


def test_transfer_json_holds_every_row_and_the_stage_that_measured_it(written):
    rows = json.loads(read(written[1], "transfer"))["rows"]
    assert len(rows) == 42
    assert rows[0] == {"stage": "transfer/digits", **transfer_rows("digits")[0]}


def test_the_page_is_whole_and_needs_nothing_from_the_network(written):
    page = read(written[1], "html")
    seen = Strict(page)
    assert all(link.startswith(("#", "../")) for link in seen.links)
    assert len(seen.ids) == len(set(seen.ids))
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_has_one_chart_for_shots_one_for_other_protocols_and_one_for_the_course(written):
    page = read(written[1], "html")
    labels = re.findall(r'<figure role="img" aria-label="([^":;,]*)', page)
    assert labels == [
        "Few-shot accuracy of frozen features",
        "The other protocols",
        "Stage pretrain over its finished steps.",
    ]


def test_charts_take_every_colour_from_the_page(written):
    page = read(written[1], "html")
    charts = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--pretrained)" in charts
    assert not re.search(r"(fill|stroke): #", charts)
    assert "<style" not in charts


def test_the_same_results_give_the_same_bytes(written):
    root, _, track = written
    assert write(root, make(root))[1].artifacts == track.artifacts


def test_the_report_says_what_was_pre_trained_and_by_which_build(written):
    _, result, _ = written
    for text in (read(result, "html"), read(result, "markdown")):
        for expected in ("ViT-S/16", "22.1 M", "30.6 M", "29,900", "845 PFLOP", "1,472 images/s", "5 h 46 min"):
            assert expected in text, expected
        assert "8c1f2e0" in text
        assert "tessera run configs/quickstart.py" in text


def test_records_of_local_stages_are_linked_relative_to_the_report(written):
    page = read(written[1], "html")
    assert 'href="../finetune/digits/record.json"' in page


def test_a_remote_stage_is_named_but_not_linked(tmp_path, results):
    config = Report(TITLE)
    local = gather(config, out=str(tmp_path / "report"), results=results)
    remote = gather(config, out="s3://bucket/run/report", results=results)
    assert {source.href for source in remote.sources} == {None}
    assert [source.record_uri for source in remote.sources] == [source.record_uri for source in local.sources]


def test_markup_in_names_stays_text(tmp_path, results):
    evil = "<b>&\"'|`x $\\alpha$"
    rows = [{**row, "task": evil} for row in transfer_rows("digits")]
    results["digits_frozen"] = Artifact("a" * 32, evil, str(tmp_path / "evil"), {"rows": rows})
    result, _ = write(tmp_path, results, title=evil, command="echo </pre><script>")
    page, text = read(result, "html"), read(result, "markdown")
    Strict(page)
    assert "<b>" not in page
    assert "<script" not in page
    assert "\\<b\\>&\"'\\|\\`x" in text
    charts = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "$\\alpha$" in charts  # no formula either


def test_learning_rates_are_shown_with_their_grids_and_the_edge_is_named(written):
    text = read(written[1], "markdown")
    assert "| digits | finetune | pretrained | lr 0.01 | 0.001: 78.92, 0.003: 92.92, 0.01: 98.42, 0.03: 97.92 |" in text
    assert "| digits | finetune | random | lr 0.03 (edge of the grid) |" in text


def test_the_note_carries_the_headline_and_the_table(written):
    (text,) = written[2].notes
    assert len(text) <= NOTE_CHARS
    assert text.startswith(
        "Pre-trained against random initialisation, 21 comparisons: clearly better in 14, unclear in 1"
    )
    assert "| digits | 1-shot | top1 |" in text


def test_a_note_that_would_be_too_long_says_what_it_leaves_out(tmp_path, results):
    findings = gather(Report(TITLE), out=str(tmp_path / "report"), results=results)
    text = note(findings, limit=2500)
    assert len(text) <= 2500
    left_out = int(re.search(r"(\d+) more in report.html", text)[1])
    assert (
        text.count("-shot | top1") + text.count("| finetune |") + text.count("| linear |") + text.count("knn")
        == 21 - left_out
    )
    assert note(findings, limit=40) == text[:40]


def test_results_that_are_not_finite_are_shown_as_such(tmp_path, results):
    rows = finetune_rows("digits")
    rows[1] |= {"mean": float("nan"), "values": [float("nan")] * 3, "std": float("nan")}
    results["digits_tuned"] = Artifact("a" * 32, "finetune", str(tmp_path / "nan"), {"rows": rows})
    history = [[10, 6.9, 1e-3, 100.0, 0.0], [20, None, 1e-3, 100.0, 0.0], [30, 6.7, 1e-3, 100.0, 0.0]]
    results["weights"] = Artifact("b" * 32, "pretrain", str(tmp_path / "p"), {"history": history, "loss": None})
    result, _ = write(tmp_path, results)
    assert "not finite" in read(result, "html")
    shown = [row for row in json.loads(read(result, "transfer"))["rows"] if row["stage"] == "finetune"]
    assert [row["mean"] is None for row in shown] == [False, True]


def test_pictures_of_an_inspection_are_in_the_page_those_of_the_finished_weights_alone(tmp_path, results):
    figures = []
    for step in (10, 20):
        uri = str(tmp_path / "inspect" / f"step-{step}" / "filters.png")
        storage.write(uri, b"\x89PNG of step %d" % step)
        figures.append({"name": "filters", "caption": "What <it> looks for.", "step": step, "png": uri, "numbers": []})
    looked = Artifact("a" * 32, "inspect", str(tmp_path / "inspect"), {"figures": figures, "steps": [10, 20]})
    page = read(write(tmp_path, {**results, "looked": looked})[0], "html")
    seen = Strict(page)
    shown = [link for link in seen.links if link.startswith("data:")]
    assert [base64.b64decode(link.removeprefix("data:image/png;base64,")) for link in shown] == [b"\x89PNG of step 20"]
    assert '<h2>What the model has learned</h2>\n<figure><img src="data:image/png' in page
    assert "<figcaption>What &lt;it&gt; looks for.</figcaption>" in page


def test_a_report_of_nothing_is_refused(tmp_path, results):
    with pytest.raises(ValueError, match="none of weights has rows; give it a finetune or transfer"):
        write(tmp_path, {"weights": results["weights"]})


def test_a_report_needs_a_title():
    with pytest.raises(ValueError, match=r"title: must not be empty"):
        Report("  ")


def test_results_without_a_pre_training_or_a_second_initialisation_still_make_a_report(tmp_path):
    rows = [row for row in transfer_rows("digits") if row["init"] == "pretrained"]
    artifact = Artifact("a" * 32, "transfer", str(tmp_path / "t"), {"rows": rows})
    result, track = write(tmp_path, {"digits": artifact}, command=None)
    assert "Nothing here was measured from both" in track.notes[0]
    assert f"--root {tmp_path}" in read(result, "markdown")


def test_the_config_is_read_without_loading_matplotlib():
    import subprocess

    probe = "import sys, pipeline.stages.report; print(sorted({'matplotlib', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
