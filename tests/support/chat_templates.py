"""Chat templates that behave as those of known families, written anew: what each writes, not how it is spelt there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Family(NamedTuple):
    """A template and what stands for a picture in its text."""

    source: str
    placeholder: str = "<image>"
    variables: Mapping[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}


_PARTS = """{%- macro parts(content, after_image='') %}
{%- for part in content %}{% if part.type == 'image' %}{{ IMAGE ~ after_image }}{% else %}{{ part.text }}
{%- endif %}{% endfor %}{% endmacro %}"""


def _parts(image: str) -> str:
    return _PARTS.replace("IMAGE", repr(image))


_CHATML = """{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' }}{{ parts(m.content) }}{{ '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_DEFAULT_SYSTEM = """{% if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"""
_IDEFICS = """{% for m in messages %}{{ m.role | capitalize ~ (':' if m.content[0].type == 'image' else ': ') }}
{{- parts(m.content) ~ '<end_of_utterance>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""
_ALTERNATE = "{{ raise_exception('roles must alternate') if (m.role == 'user') != (loop.index0 % 2 == 0) }}"
_LLAVA = """{% for m in messages %}{% if m.role != 'system' %}{{ m.role | upper ~ ': ' }}{% endif %}
{%- for part in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}
{%- for part in m.content | selectattr('type', 'equalto', 'text') %}
{%- if m.role == 'assistant' %}{% generation %}{{ part.text ~ ' ' }}{% endgeneration %}
{%- else %}{{ part.text ~ ' ' }}{% endif %}{% endfor %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
_LLAMA_2 = (
    """{%- set ns = namespace(system='', rest=messages) %}
{%- if messages[0].role == 'system' %}
{%- set ns.system = '<<SYS>>\\n' ~ parts(messages[0].content) ~ '\\n<</SYS>>\\n\\n' %}
{%- set ns.rest = messages[1:] %}{% endif %}
{%- for m in ns.rest %}"""
    + _ALTERNATE
    + """{% set said = parts(m.content) %}
{%- if loop.first %}{% set said = ns.system ~ said %}{% endif %}
{%- if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ said.strip() ~ ' [/INST]' }}
{%- else %}{{ ' ' ~ said.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"""
)
_MISTRAL = (
    """{{ bos_token }}{% set first = 1 if messages[0].role == 'system' else 0 %}
{%- for m in messages[first:] %}"""
    + _ALTERNATE
    + """{% if m.role == 'user' %}{{ '[INST]' }}
{%- if loop.last and first %}{{ parts(messages[0].content) ~ '\\n\\n' }}{% endif %}{{ parts(m.content) ~ '[/INST]' }}
{%- else %}{{ parts(m.content) ~ eos_token }}{% endif %}{% endfor %}"""
)
_LLAMA_3 = """{{ bos_token }}{% for m in messages %}
{{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ parts(m.content) | trim ~ '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
_LLAMA_32_VISION = """{{ bos_token }}{% if not date_string is defined %}
{%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}{% endif %}
{%- set ns = namespace(shown=false) %}{% for m in messages %}{% for part in m.content %}{% if part.type == 'image' %}
{%- set ns.shown = true %}{% endif %}{% endfor %}{% endfor %}
{%- set own = messages[0].role == 'system' %}
{%- if own and ns.shown %}{{ raise_exception('pictures and a system text do not go together') }}{% endif %}
{%- if not ns.shown %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}
{{- 'Today Date: ' ~ date_string ~ '\\n\\n' ~ (parts(messages[0].content) | trim if own) ~ '<|eot_id|>' }}{% endif %}
{%- for m in messages[1 if own else 0:] %}
{{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ parts(m.content) | trim ~ '<|eot_id|>' }}{% endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' if add_generation_prompt }}"""
_GEMMA = (
    """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}"""
    + _ALTERNATE
    + """{% set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' ~ role ~ '\\n' ~ parts(m.content) | trim ~ '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
)
_GEMMA_3 = """{{ bos_token }}{% set ns = namespace(prefix='', rest=messages) %}{% if messages[0].role == 'system' %}
{%- set ns.prefix = messages[0].content[0].text ~ '\\n\\n' %}{% set ns.rest = messages[1:] %}{% endif %}
{%- for m in ns.rest %}{% set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' ~ role ~ '\\n' ~ (ns.prefix if loop.first) }}{% for part in m.content %}
{%- if part.type == 'image' %}{{ '<start_of_image>' }}{% else %}{{ part.text | trim }}{% endif %}{% endfor %}
{{- '<end_of_turn>\\n' }}{% endfor %}{{ '<start_of_turn>model\\n' if add_generation_prompt }}"""
_PHI_3 = """{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ parts(m.content, after_image='\\n') }}
{{- '<|end|>\\n' }}{% endfor %}{{- '<|assistant|>\\n' if add_generation_prompt }}"""
_TOOLS = """{% if tools %}{{ '<|im_start|>system\\n# Tools ' ~ tools | tojson ~ '<|im_end|>\\n' }}{% endif %}"""
_COUNTED = """{% set n = namespace(image=0) %}{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' }}
{%- for part in m.content %}{% if part.type == 'image' %}{% set n.image = n.image + 1 %}
{{- 'Picture ' ~ n.image ~ ': ' if add_vision_id }}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

FAMILIES: Mapping[str, Family] = {
    "smolvlm": Family(_parts("<image>") + "{{ '<|im_start|>' }}" + _IDEFICS),
    "idefics2": Family(_parts("<image>") + _IDEFICS),
    "idefics3": Family(_parts("<image>") + "{{ bos_token }}" + _IDEFICS),
    "llava-vicuna": Family(_LLAVA),
    "llava-mistral": Family(_parts("<image>\n") + _LLAMA_2),
    "llava-chatml": Family(_parts("<image>\n") + _CHATML),
    "llama-2": Family(_parts("<image>") + _LLAMA_2),
    "llama-3": Family(_parts("<|image|>") + _LLAMA_3, "<|image|>"),
    "llama-3.2-vision": Family(_parts("<|image|>") + _LLAMA_32_VISION, "<|image|>"),
    "gemma": Family(_parts("<image>") + _GEMMA),
    "gemma-3": Family(_GEMMA_3, "<start_of_image>"),
    "qwen2-vl": Family(_DEFAULT_SYSTEM + _COUNTED, "<|image_pad|>"),
    "qwen2.5-vl": Family(_TOOLS + _DEFAULT_SYSTEM + _COUNTED, "<|image_pad|>"),
    "phi-3": Family(_parts("<image>") + _PHI_3),
    "internvl": Family(_parts("<IMG_CONTEXT>\n") + _CHATML, "<IMG_CONTEXT>"),
    "pixtral": Family(_parts("[IMG]") + _MISTRAL, "[IMG]"),
}
