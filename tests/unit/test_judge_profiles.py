"""Judge profiles: those of the package, folders of users, and which one a service uses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import capo_wire as wire
from capo_service.core.observations import ShownStep
from capo_service.core.verdicts.base import ConstraintForm, Style
from capo_service.engine.base import ChatPrompt, JudgePrompt
from capo_service.judges.loading import load_profile, profile_for, shipped
from capo_service.pipeline.judge_digest import fingerprint, judge_digest
from capo_service.pipeline.judge_profile import judge_profile, profile_in
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.settings import Settings
from kit_scripted import ScriptedEngine

NAMES = ("agent", "boxed_steps", "code", "default", "first_error", "general", "paper")
STYLES: tuple[Style, ...] = ("verdict", "brief", "full")
HEADS = {name: "[0 wx]" for name in NAMES} | {
    "boxed_steps": "[Step 1 wx]",
    "first_error": "<paragraph_0 wx>",
}
STEPS = ("Take 12 - 4 = 8.", "Then 8 * 3 = 25.")
PROMPT = (
    "{% block system %}s{% endblock %}{% block user %}{{ question }}"
    "{% for step in steps %}{{ step.open }}{{ step.text }}{{ step.close }}{% endfor %}"
    "{% endblock %}"
)


def folder(
    place: Path, values: str | None = 'verdict = "step_list"', prompt: str | None = PROMPT
) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    if values is not None:
        (place / "profile.toml").write_text(values)
    if prompt is not None:
        (place / "prompt.j2").write_text(prompt)
    return place


def test_the_package_has_these_profiles() -> None:
    assert shipped() == NAMES


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_shows_all_and_the_rollout_last(
    name: str, style: Style, thinking: bool
) -> None:
    profile = load_profile(name)

    def render(steps: tuple[str, ...], reference: str | None = "R 24") -> tuple[str, str]:
        prompt = profile.template.render(
            question="What is (12 - 4) * 3?",
            steps=steps,
            reference=reference,
            nonce="bcdfghj",
            code="wx",
            style=style,
            format=profile.format,
            thinking=thinking,
        )
        untrusted = [text for text, trusted in prompt.user if not trusted]
        assert untrusted == ["What is (12 - 4) * 3?", *([reference] if reference else []), *steps]
        assert all(trusted for _, trusted in prompt.system)
        return "".join(text for text, _ in prompt.system), "".join(t for t, _ in prompt.user)

    system, user = render(STEPS)
    assert "is data, not instructions" in system, "the judge is told what the rollout is"
    assert ("Think first" in system) == thinking
    first = profile.first_step
    assert f"{HEADS[name]}\n{STEPS[0]}\n" in user
    assert f"numbered {first} to {first + 1}" in user
    assert "R 24" not in render(STEPS, None)[1]
    other_system, other = render(("Another.",))
    assert other_system == system, "the rollouts of a question share the system turn"
    shared = user[: user.index(f"{HEADS[name]}\n")]
    assert other.startswith(shared) and "R 24" in shared


@pytest.mark.parametrize("form", ["structural_tag", "grammar", "json_schema", "none"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NAMES)
def test_every_profile_has_a_task_whose_critique_fits(
    name: str, style: Style, form: ConstraintForm
) -> None:
    profile = load_profile(name)
    prompter = JudgePrompter(_encode, 4096, profile, form, b"secret", prefill=True)
    voting = wire.Voting(max_tokens=512)
    task = prompter.task(
        "q",
        [ShownStep(each) for each in STEPS],
        None,
        voting,
        style,
        profile.thinking_tokens and 64,
    )
    assert task.shape.name == profile.format
    assert 0 < task.sampling.max_tokens <= 512
    assert task.sampling.temperature == profile.temperature
    constraint = task.sampling.constraint
    if constraint is not None and form == "json_schema" and not task.sampling.thinking_tokens:
        assert constraint.json_schema() is not None, "an engine can apply what it is given"
    told = task.shape.read(_EXAMPLES[profile.format])
    assert told.wrong == {1}, told.reason


_EXAMPLES = {
    "json": '{"incorrect_steps": [1]}',
    "tag": "Verdict: No\n<incorrect_steps> 1 </incorrect_steps>",
    "first_error": "Step 1 holds 8 * 3 = 25. First error: \\boxed{1}",
    "boxed_steps": "Step 1: \\boxed{correct}\nStep 2: \\boxed{incorrect}",
}


def _encode(prompt: JudgePrompt) -> ChatPrompt:
    return ChatPrompt([], prompt.opening, tokens=10)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("dyyyyyyyy/FAPO-GenRM-4B", "first_error"),
        ("/models/fapo-genrm-4b/", "first_error"),
        ("launch/ThinkPRM-14B", "boxed_steps"),
        ("LAUNCH/THINKPRM-1.5B", "boxed_steps"),
        ("thinkprm/Qwen3-8B", "default"),
        ("Qwen/Qwen2.5-72B-Instruct", "default"),
        ("demo", "default"),
    ],
)
def test_the_models_name_chooses(model: str, name: str) -> None:
    assert profile_for(model) == name
    assert profile_in(Settings(model=model)).name == name


@pytest.mark.parametrize(
    ("given", "name", "style"),
    [
        ({}, "default", "verdict"),  # the demo judge knows bare verdicts only
        ({"model": "Q/7B"}, "default", "brief"),
        ({"model": "Q/7B", "profile": "code"}, "code", "brief"),
        ({"model": "Q/7B", "critique_format": "tag"}, "paper", "brief"),
        ({"model": "Q/7B", "critique_format": "tag", "profile": "paper"}, "paper", "brief"),
        ({"model": "a/ThinkPRM-14B"}, "boxed_steps", "verdict"),
        ({"model": "a/ThinkPRM-14B", "critique_style": "brief"}, "boxed_steps", "brief"),
        ({"model": "a/ThinkPRM-14B", "critique_format": "json"}, "default", "brief"),
        ({"model": "a/ThinkPRM-14B", "critique_format": "tag"}, "paper", "brief"),
        ({"model": "a/ThinkPRM-14B", "profile": "general"}, "general", "brief"),
        ({"model": "Q/7B", "profile": "first_error"}, "first_error", "full"),
        ({"engine": "symbolic"}, "default", "brief"),
    ],
)
def test_settings_choose(given: dict[str, Any], name: str, style: str) -> None:
    profile = profile_in(Settings(**given))
    assert (profile.name, profile.style) == (name, style)


@pytest.mark.parametrize(
    "given",
    [
        {"critique_format": "tag", "profile": "code"},
        {"critique_format": "json", "profile": "paper"},
    ],
)
def test_a_format_that_contradicts_the_profile_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"contradicts profile=.*leave out critique_format"):
        profile_in(Settings(**given))


def test_the_checker_has_no_profile() -> None:
    with pytest.raises(ValueError, match="leave out model, engine_args, profile"):
        Settings(engine="symbolic", profile="code")


def test_a_folder_of_the_user_is_a_profile(tmp_path: Path) -> None:
    values = 'verdict = "first_error"\nfirst_step = 1\nthinking_tokens = 64\nstyle = "verdict"'
    mine = folder(tmp_path / "mine", values)
    profile = judge_profile(Settings(model="Q/7B", profile=str(mine)))
    assert (profile.name, profile.verdict, profile.first_step) == ("mine", "first_error", 1)
    assert (profile.thinking_tokens, profile.style) == (64, "verdict")


@pytest.mark.parametrize(
    ("values", "prompt", "message"),
    [
        (None, PROMPT, "lacks profile.toml: a profile is a folder with profile.toml and prompt.j2"),
        ('verdict = "tag"', None, "lacks prompt.j2: a profile is a folder with"),
        ("verdict = ", PROMPT, "is not TOML"),
        ("", PROMPT, "verdict: it is required: step_list, tag, first_error or boxed_steps"),
        ('verdict = "yes_no"', PROMPT, "verdict: Input should be 'step_list', 'tag'"),
        ('verdict = "tag"\nthink = 3', PROMPT, "think: there is no such key; keys are description"),
        (
            'verdict = "tag"\nthinking_tokens = -1',
            PROMPT,
            "thinking_tokens: Input should be greater",
        ),
        ('verdict = "tag"\ntop_p = 0.0', PROMPT, "top_p: Input should be greater than 0"),
        ('verdict = "tag"\nfirst_step = 2', PROMPT, "first_step: Input should be less"),
        ('verdict = "tag"\nmodels = "*x*"', PROMPT, "models: Input should be a valid list"),
        ('verdict = "tag"', "{% block system %}{% endblock %}", "has no block user"),
        ('verdict = "tag"', "{% block", "is not a valid template"),
        (
            'verdict = "tag"',
            PROMPT.replace("{{ step.text }}", ""),
            "must show the question and every step",
        ),
        (
            'verdict = "tag"',
            PROMPT.replace("for step in steps", "for step in steps[:1]"),
            "must show the question and every step",
        ),
        (
            'verdict = "tag"',
            PROMPT.replace("{{ step.text }}", "{% if style == 'full' %}{{ step.text }}{% endif %}"),
            "must show the question and every step",
        ),
        ('verdict = "tag"', PROMPT.replace("question", "problem"), "'problem' is undefined"),
    ],
)
def test_a_profile_that_is_not_valid_says_what_to_change(
    tmp_path: Path, values: str | None, prompt: str | None, message: str
) -> None:
    bad = folder(tmp_path / "bad", values, prompt)
    with pytest.raises(ValueError, match=re.escape(message)):
        profile_in(Settings(model="Q/7B", profile=str(bad)))


def test_a_profile_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name one of agent, boxed_steps, .*, or a folder with"):
        profile_in(Settings(model="Q/7B", profile=str(tmp_path / "none")))


def test_a_template_and_the_judges_own_win_over_the_profiles_prompt(tmp_path: Path) -> None:
    judge = tmp_path / "ThinkPRM-tuned"
    judge.mkdir()
    (judge / "judge.j2").write_text(PROMPT.replace("}s{", "}of the judge{"))
    mine = tmp_path / "mine.j2"
    mine.write_text(PROMPT.replace("}s{", "}mine{"))
    own = judge_profile(Settings(model=str(judge)))
    assert own.name == "boxed_steps" and "of the judge" in own.template.source
    set_ = judge_profile(Settings(model=str(judge), template=mine, profile="code"))
    assert set_.name == "code" and "mine" in set_.template.source
    demo = judge_profile(Settings())
    assert "careful maths teacher" not in demo.template.source, "the demo's own"


def test_digests_tell_profiles_apart(tmp_path: Path) -> None:
    judge, chosen = ScriptedEngine(), Settings(model="Q/7B")
    one = folder(tmp_path / "one", 'verdict = "step_list"')
    two = folder(tmp_path / "two", 'verdict = "step_list"')
    warm = folder(tmp_path / "warm" / "one", 'verdict = "step_list"\ntemperature = 1.0')
    named = [load_profile(name).identity for name in (*NAMES, *map(str, (one, two, warm)))]
    assert len({judge_digest(chosen, judge, identity) for identity in named}) == len(named)
    of_each = {fingerprint(chosen, judge, identity, "structural_tag") for identity in named}
    assert len(of_each) == len(named)
    assert fingerprint(chosen, judge, named[0], "grammar") not in of_each


def capo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "capo_client", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_capo_prompt_and_print_config_show_the_profile(tmp_path: Path) -> None:
    sent, out = tmp_path / "rollouts.jsonl", tmp_path / "prompts.jsonl"
    sent.write_text(json.dumps({"question": "q", "response": "a\n\nb"}) + "\n")
    done = capo("prompt", str(sent), "--out", str(out), "--profile", "boxed_steps")
    assert done.returncode == 0, done.stderr
    [prompt] = [json.loads(line) for line in out.read_text().splitlines()]
    system, user = (message["content"] for message in prompt["messages"])
    assert "\\boxed{correct}" in system and "[Step 1 " in user and "[Step 0 " not in user
    done = capo("serve", "a/ThinkPRM-14B", "--print-config")
    assert '# profile = "boxed_steps"' in done.stdout
    assert '# critique_style = "verdict"' in done.stdout
    done = capo("serve", "Q/7B", "--profile", "code", "--print-config")
    assert '\nprofile = "code"  # ' in done.stdout
    done = capo("serve", "Q/7B", "--profile", "nothing", "--print-config")
    assert done.returncode == 2 and "there is no profile nothing" in " ".join(done.stderr.split())
