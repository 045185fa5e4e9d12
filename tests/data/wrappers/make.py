"""Makes the multimodal models beside this file, the logits of their text, and what transformers takes for missing keys.

    pip install torch transformers safetensors && python make.py

Random weights, seeded; only the numbers are of interest. Written with torch 2.15, transformers 5.24.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, Gemma3Config, Gemma3TextConfig, Idefics3Config, InternVLConfig,
    InternVLVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig, LlavaOnevisionConfig, Mistral3Config, MistralConfig,
    PixtralVisionConfig, Qwen2_5_VLConfig, Qwen2Config, Qwen2VLConfig, Qwen3VLConfig, SiglipVisionConfig, SmolVLMConfig,
    VipLlavaConfig,
)

HERE = Path(__file__).parent
TEXT = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128)
ONE = {**TEXT, "num_hidden_layers": 1}
VISION = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
CLIP = CLIPVisionConfig(**VISION, projection_dim=8)
SIGLIP = SiglipVisionConfig(**VISION, vision_use_head=False)
MROPE = dict(rope_type="default", rope_theta=1e6, mrope_section=[1, 1, 0])
IDS = dict(image_token_id=60, video_token_id=61, vision_start_token_id=58, vision_end_token_id=59)
EOS = dict(bos_token_id=1, eos_token_id=2)

MODELS = {
    "gemma3": Gemma3Config(vision_config=SIGLIP, mm_tokens_per_image=1, image_token_index=60, text_config=Gemma3TextConfig(
        **TEXT, head_dim=8, sliding_window=5, query_pre_attn_scalar=24, layer_types=["sliding_attention", "full_attention"])),
    "mistral3": Mistral3Config(
        vision_config=PixtralVisionConfig(**VISION, head_dim=4), image_token_index=60, tie_word_embeddings=False,
        text_config=MistralConfig(**TEXT, head_dim=8, sliding_window=5)),
    "llava": LlavaConfig(vision_config=CLIP, text_config=LlamaConfig(**TEXT), image_token_index=60, image_seq_length=4,
                         vision_feature_layer=-1),
    "qwen2_5_vl": Qwen2_5_VLConfig(
        vision_config=dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=4, out_hidden_size=16,
                           fullatt_block_indexes=[0], window_size=8),
        text_config=dict(**TEXT, **EOS, rope_parameters=MROPE), **IDS),
    "qwen2_vl": Qwen2VLConfig(
        vision_config=dict(depth=1, embed_dim=8, hidden_size=16, num_heads=2, patch_size=4, mlp_ratio=1),
        text_config=dict(**TEXT, **EOS, rope_parameters=MROPE), tie_word_embeddings=True, **IDS),
    "qwen3_vl": Qwen3VLConfig(
        vision_config=dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=4, out_hidden_size=16,
                           deepstack_visual_indexes=[0], num_position_embeddings=4),
        text_config=dict(**ONE, **EOS, head_dim=8, rope_parameters={**MROPE, "mrope_section": [2, 1, 1]}), **IDS),
    "idefics3": Idefics3Config(vision_config=VISION, text_config=LlamaConfig(**ONE), image_token_id=60),
    "smolvlm": SmolVLMConfig(vision_config=VISION, text_config=LlamaConfig(**ONE), image_token_id=60),
    "llava_next": LlavaNextConfig(vision_config=CLIP, text_config=MistralConfig(**ONE, sliding_window=None),
                                  image_token_index=60, vision_feature_layer=-1, image_grid_pinpoints=[[8, 8]]),
    "llava_onevision": LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config=Qwen2Config(**ONE, **EOS, tie_word_embeddings=True), image_token_index=60,
        video_token_index=61, image_grid_pinpoints=[[8, 8]]),
    "vipllava": VipLlavaConfig(vision_config=CLIP, text_config=LlamaConfig(**ONE), image_token_index=60,
                               vision_feature_layers=[-1]),
    "internvl": InternVLConfig(vision_config=InternVLVisionConfig(**{**VISION, "image_size": [8, 8], "patch_size": [4, 4]}),
                               text_config=Qwen2Config(**ONE, **EOS), image_token_id=60, tie_word_embeddings=False),
}


def old_spelling(name, path):
    """What transformers 4 wrote: of parts only what is not a default; the text of Qwen's models beside the rest."""
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    if name == "llava":
        defaults = LlamaConfig().to_dict() | dict(rope_theta=1e4, head_dim=4)
        config["text_config"] = {k: v for k, v in text.items() if k == "model_type" or v != defaults.get(k)}
    if name == "qwen2_vl":
        del config["text_config"], text["model_type"]
        config |= {**text, "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    path.write_text(json.dumps(config, indent=2) + "\n")


logits = {}
ids = torch.arange(24).reshape(2, 12) * 7 % 64
logits["input_ids"] = ids
for seed, (name, config) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1.0 if parameter.dim() == 1 and parameter.numel() == 16 else 0.0))
    model.to(torch.bfloat16).save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    if name in ("llava", "qwen2_vl"):
        old_spelling(name, HERE / name / "config.json")
    # Read again: casting the model in place would round its rotary frequencies too.
    model = AutoModelForImageTextToText.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits[name] = model.eval()(input_ids=ids).logits.contiguous()
save_file(logits, HERE / "expected.safetensors")

TEXTS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "olmo3", "exaone4",
         "granite", "glm", "glm4", "ernie4_5", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"]


def defaults(name):
    config = AutoConfig.for_model(name)
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "rms_norm_eps", "max_position_embeddings", "eos_token_id"]
    found = {key: getattr(config, key, None) for key in keys}
    found["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found["tie_word_embeddings"] = getattr(config, "tie_word_embeddings", False)
    rope = config.rope_parameters
    found["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
    return found


(HERE / "defaults.json").write_text(json.dumps({name: defaults(name) for name in TEXTS}, indent=1) + "\n")
