"""Writes old/NAME.json: the config.json of every model beside this file, as transformers 4 saves it.

    pip install "transformers<5" && python make_old.py

Written with transformers 4.57. Keys of transformers 5 are given to the classes of 4 under the names they had there.
"""

import json
from pathlib import Path

from transformers import AutoConfig

HERE = Path(__file__).parent


def old_keys(config):
    """The arguments of transformers 4 for a config.json of transformers 5."""
    config["torch_dtype"] = config.pop("dtype", "float32")
    config.pop("transformers_version")
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return config
    if config["model_type"] == "gemma3_text":
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        # Hub configurations of that time name the pattern, and no layers.
        config.pop("layer_types")
        config["sliding_window_pattern"] = 2
    if config["model_type"] == "olmo3":
        rope = rope["full_attention"]
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            config[key] = rope.pop(key)
    if config["model_type"] == "phi3":
        rope.pop("original_max_position_embeddings", None)
        rope["type"] = rope.pop("rope_type")
    kind = rope.get("rope_type", rope.get("type"))
    config["rope_scaling"] = None if kind == "default" else rope
    return config


(HERE / "old").mkdir(exist_ok=True)
for file in sorted(HERE.glob("*/config.json")):
    config = json.loads(file.read_text())
    if "rope_parameters" in config:
        old = AutoConfig.for_model(**old_keys(config))
        old.architectures = config["architectures"]
        old.to_json_file(HERE / "old" / f"{file.parent.name}.json", use_diff=False)
