"""Configuration files of moshi-core, written down from what theirs say."""

_COMMON = """
num_heads = 16
causal = true
norm_first = true
bias_ff = false
bias_attn = false
use_conv_block = false
use_conv_bias = true
gating = "silu"
norm = "RmsNorm"
conv_layout = false
conv_kernel_size = 3
kv_repeat = 1
max_seq_len = 4096
"""

# rust/s2st-1b.toml: the 1B Hibiki, which the seeds took for Moshi's.
S2ST_1B = f"""
audio_codebooks = 16
audio_vocab_size = 2049
text_in_vocab_size = 48001
text_out_vocab_size = 48000
[transformer]
d_model = 2048
num_layers = 16
dim_feedforward = 8192
context = 3000
max_period = 100000
positional_embedding = "Rope"
{_COMMON}
[depformer]
num_slices = 8
[depformer.transformer]
d_model = 1024
num_layers = 6
dim_feedforward = 4096
context = 32
max_period = 10000
positional_embedding = "None"
{_COMMON}
[conditioners.description]
type = "Lut"
n_bins = 31
dim = 16
possible_values = ["very_bad", "bad", "neutral", "good", "very_good"]
"""

BACKEND_JSON = """{
  "instance_name": "test", "hf_repo": "kyutai/moshiko-candle-bf16", "lm_model_file": "$HOME/model.safetensors",
  "text_tokenizer_file": "$HOME/tokenizer_spm_32k_3.model", "log_dir": "$HOME/logs", "static_dir": "dist", "cert_dir": ".",
  "mimi_model_file": "$HOME/tokenizer-e351c8d8-checkpoint125.safetensors", "mimi_num_codebooks": 8, "addr": "0.0.0.0", "port": 8998
}"""
