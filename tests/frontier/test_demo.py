"""`redpencil demo` on a tiny scale: its five stages, said in order, and a report at the end."""

import redpencil.frontier.demo
from redpencil.cli.main import main
from redpencil.world.settings import DEMO_STAGES, DemoSettings


def tiny_demo() -> DemoSettings:
    return DemoSettings(
        reviews=64,
        sft_warmup_steps=1,
        train_prefixes=12,
        dpo_batch_size=4,
        max_new_tokens=24,
        eval_prefixes=8,
    )


def test_the_five_stages_are_said_in_order_and_done_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(redpencil.frontier.demo, "DemoSettings", tiny_demo)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"demo      5 stages in {out}")
    places = [
        said.index(f"stage {number} of 5  {what}") for number, what in enumerate(DEMO_STAGES, 1)
    ]
    assert places == sorted(places)
    assert said.index("On 8 held-out prefixes") > places[-1]
    assert (out / "dpo" / "report.html").is_file()
    assert main(["demo", "--out", str(out), "--quiet"]) == 0
    again = capsys.readouterr().out
    assert "stage 1" not in again and "On 8 held-out prefixes" in again
    assert "sft step" not in again


def test_the_frontier_keeps_the_reference_that_its_figures_are_of():
    from redpencil.world.settings import FrontierSettings

    world = FrontierSettings().world
    assert (world.reviews, world.train_prefixes) == (24_000, 1_500)
