"""What a run folder says of how it was made, what a kill leaves of it, what a full disk does."""

import errno
import os
import shlex

import pytest
from safetensors import SafetensorError

import redpencil as rp
import redpencil.cli.main as command_line
import redpencil.engine.metrics as metrics_module
import redpencil.engine.state as state_module
from redpencil.engine.state import complete_checkpoints, prune_checkpoints
from redpencil.errors import FileError
from redpencil.folders.run import RunFolder, environment
from redpencil.models.export import save_model
from redpencil.places import naming, refusals_told
from redpencil.stages import pair_log
from redpencil.world.tokenizer import world_tokenizer
from tiny_runs import recipe, same_weights
from zoo import tiny_model


@pytest.mark.parametrize("program", ["/usr/bin/redpencil", "redpencil.exe", command_line.__file__])
def test_the_command_that_began_a_run_can_be_pasted(monkeypatch, program):
    arguments = ["dpo", "--data", "my pairs.jsonl", "--columns", "chosen=a b"]
    monkeypatch.setattr("sys.argv", [program, *arguments])
    assert shlex.split(str(environment()["command"])) == ["redpencil", *arguments]


@pytest.mark.parametrize("program", ["train.py", "", "-c", "/usr/bin/ipython"])
def test_another_program_began_it_by_no_command_of_ours(monkeypatch, program):
    monkeypatch.setattr("sys.argv", [program, "--data", "x"])
    assert "command" not in environment()


SHORT = {
    "max_steps": 4,
    "checkpoint_every": 2,
    "eval_every": 2,
    "sample_prompts": 0,
    "max_tokens": 2048,
    "matrix_kernels": "default",
    "activation_checkpointing": "off",
}

LEFT_BEHIND = (
    ".recipe.yaml.partial",
    ".metrics.jsonl.ab12cd34.partial",
    ".report.html.ab12cd34.partial",
    ".model-ab12cd34/config.json",
    ".model-ab12cd34-old/config.json",
    ".adapter-ab12cd34/adapter_config.json",
    ".model.partial/config.json",
    ".model.gone.partial/config.json",
    "checkpoints/.step-4.partial/weights.safetensors",
    "checkpoints/.step-2.gone.partial/state.json",
    "checkpoints/step-2/.state.json.partial",
    "checkpoints/step-2/.state.json.ab12cd34.partial",
    "pairs.parquet/.part-00000004.parquet.partial",
    "pairs.parquet/.part-00000004.parquet.ab12cd34.partial",
)
SOMEBODY_ELSES = (
    ".notes",
    ".gitignore",
    ".modelcard.partial.txt",
    ".model-of-mine",
    "thesis.partial",
    "model/.hidden.json.ab12cd34.partial",
    "checkpoints/mine/.state.json.partial",
    "other/.recipe.yaml.partial",
)


def test_what_a_kill_left_goes_at_the_next_start(tmp_path):
    for name in (*LEFT_BEHIND, *SOMEBODY_ELSES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path).alone():
        left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*SOMEBODY_ELSES, ".lock"}


def test_a_folder_goes_at_once_as_far_as_its_name_goes(tmp_path, monkeypatch):
    """A kill while a checkpoint is removed leaves nothing that is called a checkpoint."""
    for step in (2, 4):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / "state.json").write_text("{}")

    def killed(path, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune_checkpoints(tmp_path, keep=1, best_step=None)
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["step-4"]


def test_an_export_cleans_up_after_a_killed_one(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "config.json").write_text("half")
    model = tiny_model("llama")
    save_model(model, world_tokenizer(), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("full", ["weights", "state", "pairs", "metrics"])
def test_a_disk_that_runs_full_costs_no_checkpoint(
    full, base, pairs, tmp_path, monkeypatch, capsys
):
    """The last checkpoint stays whole, the error names the file, and once there is room the same
    command ends where one that was never stopped ends."""
    wanted = recipe(base, pairs, tmp_path / "whole", **SHORT)
    stopped = recipe(base, pairs, tmp_path / "stopped", **SHORT)
    rp.train(wanted)
    words = 'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No" })'
    after = {"save": 0}

    def no_room(*_, **__):
        raise SafetensorError(words)

    def no_room_at_4(state, *_):
        if state["step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if full == "weights":
            original = state_module.save_file

            def save(tensors, path):
                after["save"] += 1
                return no_room() if after["save"] > 3 else original(tensors, path)

            patch.setattr(state_module, "save_file", save)
        elif full == "state":
            write = state_module._write_state

            def write_state(checkpoint, state, files):
                no_room_at_4({"step": state.step})
                write(checkpoint, state, files)

            patch.setattr(state_module, "_write_state", write_state)
        elif full == "pairs":

            def write_table(*_, **__):
                after["save"] += 1
                if after["save"] > 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return parquet_write(*_, **__)

            parquet_write = pair_log.parquet.write_table
            patch.setattr(pair_log.parquet, "write_table", write_table)
        else:
            log = metrics_module.MetricsLog.write

            def write_metrics(self, step, metrics):
                with naming(self.path):
                    no_room_at_4({"step": step})
                log(self, step, metrics)

            patch.setattr(metrics_module.MetricsLog, "write", write_metrics)
        with pytest.raises(FileError, match="no space is left there"), refusals_told():
            rp.train(stopped)
    names = {p.name for p in (tmp_path / "stopped").rglob("*")}
    assert not [name for name in names if name.endswith(".partial") or name == ".lock"]
    assert not (tmp_path / "stopped" / "checkpoints" / "step-4").exists()
    rp.train(stopped)
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")
