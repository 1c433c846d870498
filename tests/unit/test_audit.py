"""The audit: what it must put on top, what it must call harmless, and that it knows its own programs."""

import json

import pytest
from helpers.checkpoints import DATA
from helpers.command import command
from helpers.config_texts import BACKEND_JSON, S2ST_1B

from clearline.checkpoint.setups import named_setup
from clearline.config.audit import NOT_STORED, PARAMETERS, another_model, audit
from clearline.config.kyutai import MOSHI_7B
from clearline.config.programs import PROGRAMS
from clearline.errors import ConfigError


@pytest.fixture
def released(tmp_path):
    """The released 7B as a folder with nothing but its configuration."""
    folder = tmp_path / "moshiko"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MOSHI_7B))
    return folder


@pytest.fixture
def s2st(tmp_path):
    path = tmp_path / "s2st-1b.toml"
    path.write_text(S2ST_1B)
    return path


def by_name(findings):
    return {finding.parameter: finding for finding in findings}


def test_the_seeds_riddle(released):
    """seed 000's last open line: the weights were trained with delay 1, moshi-backend generates with 2."""
    top = audit([named_setup(str(released)), named_setup("rust:moshi-backend")])[0]
    assert (top.parameter, top.values, top.severity) == ("acoustic delay (frames)", (1, 2), "garbles audio")


def test_the_seeds_root_cause_is_another_model(released, s2st):
    findings = audit([named_setup(str(released)), named_setup(str(s2st))])
    assert findings[0].severity == "another model"
    assert {"model width (d_model)", "layers", "text vocabulary in", "conditioners"} <= set(another_model(findings))


def test_every_question_mark_of_seed_000_has_an_answer():
    findings = by_name(audit([named_setup("mlx:local"), named_setup("rust:moshi-backend")]))
    assert findings["acoustic delay (frames)"].values == (1, 2)
    assert findings["Mimi codebooks loaded"].values == (8, 8) and findings["Mimi codebooks loaded"].severity == "same"
    assert findings["user codebooks fed to the model"].severity == "harmless"
    assert findings["temperature (text)"].values == findings["temperature (audio)"].values == (0.8, 0.8)
    assert findings["top-p (text)"].values == findings["top-p (audio)"].values == (0.95, "none")
    assert findings["top-k (audio)"].values == ("none", 250)
    assert findings["random seed"].values == (299792458, "drawn anew for each session")
    assert "123" in findings["warm-up"].values[1] and findings["warm-up"].severity == "harmless"
    assert another_model(findings.values()) == []


def test_loading_32_codebooks_and_slicing_is_harmless(tmp_path):
    """Seed 000's hypothesis, refuted: the codec's first 8 codes do not depend on how many it was loaded with."""
    path = tmp_path / "backend.json"
    path.write_text(json.dumps(json.loads(BACKEND_JSON) | {"mimi_num_codebooks": 32}))
    finding = by_name(audit([named_setup("mlx:local"), named_setup(str(path))]))["Mimi codebooks loaded"]
    assert (finding.values, finding.severity) == ((8, 32), "harmless")


def test_a_backend_json_with_the_right_delay_garbles_nothing(tmp_path, released):
    path = tmp_path / "backend.json"
    path.write_text(json.dumps(json.loads(BACKEND_JSON) | {"lm_config": {"acoustic_delay": 1}}))
    assert "garbles audio" not in {finding.severity for finding in audit([named_setup(str(released)), named_setup(str(path))])}


def test_the_same_twice_differs_in_nothing(released):
    assert {f.severity for f in audit([named_setup(str(released)), named_setup(str(released))])} == {"same"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_and_parameter_has_a_value(name, released):
    setup = named_setup(f"{released}@{name}")
    assert {parameter.key for parameter in PARAMETERS} <= set(setup.values)
    unknown = [key for key, value in setup.values.items() if value == NOT_STORED]
    assert unknown in ([], ["quantisation"])  # a folder without weights does not say how they are stored


def test_a_model_as_a_program_uses_it(released, s2st):
    """moshi_mlx's local ignores the folder; moshi-cli forces delay 2 on any model."""
    values = named_setup(f"{s2st}@mlx:local").values
    assert (values["dim"], values["acoustic_delay"]) == (4096, 1)
    assert named_setup(f"{released}@rust:moshi-cli").values["acoustic_delay"] == 2


def test_stored_quantisation_is_compared():
    findings = by_name(audit([named_setup(str(DATA / "formats" / case)) for case in ("mlx_q4", "mlx_q8", "lora")]))
    assert findings["weights as stored"].values == ("4 bits, groups of 32", "8 bits, groups of 64", "BF16")
    assert findings["weights as stored"].severity == "changes results"


@pytest.mark.parametrize("spec", ["nonsense", "/nowhere/at/all", "mlx:config_v0_1@nonsense", "mlx:run_inference"])
def test_unknown_names_list_the_known_ones(spec):
    with pytest.raises(ConfigError):
        named_setup(spec)


def test_one_configuration_is_not_an_audit(released):
    with pytest.raises(ConfigError, match="two or more"):
        audit([named_setup(str(released))])


def test_the_command_line(released, s2st):
    answer = command("audit", released, "rust:moshi-backend")
    lines = answer.out.splitlines()
    first = next(line for line in lines if line.startswith("garbles audio"))
    assert answer.code == 0 and "acoustic delay (frames)" in first and first.split()[-2:] == ["1", "2"]
    assert "ANOTHER MODEL" in command("audit", released, s2st).out
    report = json.loads(command("audit", "mlx:local", "rust:moshi-backend", "--json").out)
    assert report["findings"][0]["severity"] == "garbles audio" and report["another_model"] == []
    bad = command("audit", released, "nonsense")
    assert bad.code == 2 and "rust:moshi-backend" in bad.err and "Traceback" not in bad.err


def test_personaplex_and_nvidias_programs(tmp_path, released):
    """The released config says only its type; NVIDIA's code is another program with the same model, Moshi another model."""
    (tmp_path / "config.json").write_text('{"model_type": "personaplex", "version": "7b-v1"}')
    here = named_setup(str(tmp_path))
    findings = {finding.parameter: finding for finding in audit([here, named_setup("nvidia:personaplex")])}
    assert not another_model(list(findings.values()))
    assert findings["keys a query sees"].values == (3000, 2999)
    assert findings["user's frame read at step s"].severity == "same"
    assert "garbles audio" not in {finding.severity for finding in findings.values()}
    assert another_model(audit([here, named_setup(str(released))])) == ["audio codebooks generated"]


def test_nano_can_be_audited():
    answer = command("audit", "nano", "nano@rust:moshi-cli")
    assert answer.code == 0 and answer.out.splitlines()[1].split()[:4] == ["garbles", "audio", "acoustic", "delay"]
