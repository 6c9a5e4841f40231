"""Chat templates as Ollama's: derived from the original, equal to it on every sample, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.data import Renderer
from graftwork.export.gotemplate import UnknownAction, render
from graftwork.export.ollama import go_template, modelfile, samples
from graftwork.models.folder import seedling_folder

LLAMA3 = """\
{% for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
QWEN25 = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ["user", "assistant"] or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
THINKS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
MISTRAL = """\
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' %}
        {%- if loop.first and messages[0].role == 'system' %}
            {{- '[INST] ' + messages[0].content + '\\n\\n' + message.content + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message.content + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}"""
COUNTS = "{% for m in messages %}{{ loop.index }}. {{ m.role }}: {{ m.content }}\n{% endfor %}"
SHOUTS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}"


def model(folder: Path, template: str) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(seedling_folder() / name, folder / name)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("template", [LLAMA3, QWEN25, THINKS], ids=["llama3", "qwen2.5", "thinks"])
def test_families_become_go_templates_that_say_the_same(template: str, tmp_path: Path):
    renderer = Renderer.load(model(tmp_path, template))
    go = go_template(renderer)
    for talk in samples():
        assert render(go, talk) == renderer.render_prompt(talk)


def test_a_templates_own_system_words_are_said_where_nobody_gives_others(tmp_path: Path):
    go = go_template(Renderer.load(model(tmp_path, QWEN25)))
    assert "You are Qwen." in render(go, [{"role": "user", "content": "hi"}])
    briefed = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert "You are Qwen." not in render(go, briefed)


def test_one_that_can_think_is_told_not_to(tmp_path: Path):
    assert go_template(Renderer.load(model(tmp_path, THINKS))).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("template", [COUNTS, SHOUTS], ids=["counts", "shouts"])
def test_what_cannot_be_said_is_refused_with_the_place(template: str, tmp_path: Path):
    with pytest.raises(InvalidRequest) as caught:
        go_template(Renderer.load(model(tmp_path, template)))
    assert caught.value.code == "template_unsupported"


def test_one_that_puts_system_words_into_the_first_turn_is_said_or_refused(tmp_path: Path):
    renderer = Renderer.load(model(tmp_path, MISTRAL))
    try:
        go = go_template(renderer)
    except InvalidRequest as error:
        assert error.code == "template_unsupported"
    else:
        assert all(render(go, talk) == renderer.render_prompt(talk) for talk in samples())


def test_the_seedlings_modelfile():
    text = modelfile(seedling_folder(), "./model.gguf", "./lora.gguf")
    assert text.startswith('FROM ./model.gguf\nADAPTER ./lora.gguf\nTEMPLATE """')
    assert text.endswith('PARAMETER stop "<|im_end|>"\n')


def test_go_templates_trim_and_choose_as_go_does():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    who = '[{{ if eq .Role "user" }}U{{ else }}A{{ end }}]'
    template = "a \n{{- range .Messages }} " + who + " {{ .Content -}} \n {{ end }}z"
    assert render(template, messages) == "a [U] hi [A] yoz"
    assert render('{{ if not .System }}none{{ end }}{{ "{{" }}', messages) == "none{{"
    assert render("{{ .System }}", [{"role": "system", "content": "s"}]) == "s"


@pytest.mark.parametrize(
    "template", ["{{ .Tools }}", "{{ range .Messages }}", "{{ end }}", "{{ len .Messages }}"]
)
def test_what_the_renderer_does_not_know_is_an_error(template: str):
    with pytest.raises(UnknownAction):
        render(template, [])
