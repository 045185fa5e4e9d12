//! The tokenizer and the other files of the models.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder};

use crate::text;

/// The end token of every message.
pub const END: &str = "<|end|>";
const TEMPLATE: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}<|assistant|>{% endif %}";
const VOCABULARY: usize = 640;

/// A byte-level BPE in which digits and Japanese numerals are separate tokens.
pub fn train_tokenizer() -> Result<Tokenizer> {
    let fail = |e: tokenizers::Error| anyhow::anyhow!("{e}");
    let numerals = SplitPattern::Regex("[零一二三四五六七八九十]".into());
    let split = Split::new(numerals, SplitDelimiterBehavior::Isolated, false).map_err(fail)?;
    let byte_level = ByteLevel::new(false, false, true);
    let parts = vec![split.into(), Digits::new(true).into(), byte_level.into()];
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(Sequence::new(parts)))
        .with_post_processor(None::<ByteLevel>)
        .with_decoder(Some(byte_level))
        .build()
        .map_err(fail)?;
    let specials = [END, "<|user|>", "<|assistant|>"].map(|t| AddedToken::from(t, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut rng = text::rng(5);
    let texts = (0..30_000).map(|i| match i % 5 {
        0 => text::japanese(&mut rng).input,
        1 => text::math(&mut rng).input,
        2 => text::sql(&mut rng).input,
        3 => text::sql(&mut rng).output,
        _ => text::statement(&mut rng),
    });
    let texts: Vec<String> = texts.collect();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(fail)?;
    Tokenizer::from_bytes(tokenizer.to_string(false).map_err(fail)?).map_err(fail)
}

/// Writes config.json and the other files, for a model of 0.87 million parameters.
pub fn write_side_files(dir: &Path, tokenizer: &Tokenizer) -> Result<()> {
    fs::create_dir_all(dir)?;
    tokenizer.save(dir.join("tokenizer.json"), false).map_err(|e| anyhow::anyhow!("{e}"))?;
    let write = |name: &str, value: serde_json::Value| {
        fs::write(dir.join(name), serde_json::to_string_pretty(&value)? + "\n")
    };
    write(
        "config.json",
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "bfloat16",
            "vocab_size": tokenizer.get_vocab_size(true), "hidden_size": 128, "intermediate_size": 384,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "attention_bias": false, "mlp_bias": false, "bos_token_id": null, "eos_token_id": 0, "pad_token_id": 0,
        }),
    )?;
    write(
        "generation_config.json",
        json!({"eos_token_id": 0, "pad_token_id": 0, "max_new_tokens": 64}),
    )?;
    write(
        "tokenizer_config.json",
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, "clean_up_tokenization_spaces": false,
            "eos_token": END, "pad_token": END, "chat_template": TEMPLATE,
        }),
    )?;
    Ok(())
}
