"""The text around a row's values: `$name` stands for a value, `${key}` is the config's own."""

TRAINING = """\
# $title: $what trained, $where.
# This file is rendered by scripts/render_configs.py; copy it with `tune cp $name my.yaml` to change it.
#
#   tune download $repo --output-dir $folder$ignore
#   $run
#
# Any key can be changed on the command line: batch_size=1 optimizer.lr=1e-5 ~lr_scheduler

recipe: $recipe
checkpoint_dir: $checkpoint_dir  # any folder that holds a model in Hugging Face's layout, its tokenizer included
output_dir: /tmp/torchtune/$output_dir  # checkpoints, logs and a copy of this config

# What is trained

model:
  _component_: torchtune.models.$builder
  checkpoint_dir: $model_folder
  lora_attn_modules: $lora_attn_modules  # which of the attention's projections; there is also k_proj
  apply_lora_to_mlp: $apply_lora_to_mlp
  apply_lora_to_output: $apply_lora_to_output
  lora_rank: $lora_rank  # a higher one can learn more, and takes more memory
  lora_alpha: $lora_alpha  # what an adapter gives is multiplied with lora_alpha / lora_rank
  lora_dropout: $lora_dropout
  use_dora: $use_dora  # the length of each row of an adapted weight is learnt as well
  quantize_base: $quantize_base  # the frozen weights are kept in 4 bits

tokenizer:
  _component_: torchtune.models.$tokenizer
  $tokenizer_files
  max_seq_len: $max_seq_len  # longer samples are cut; null takes them whole
  chat_template: $chat_template  # a Jinja file, or a folder that has one; null takes the model's own
  today: $today  # what chat templates that write the date take for it, so that data do not change; null: the date

checkpointer:
  _component_: torchtune.training.$checkpointer
  checkpoint_dir: $weights_folder$checkpoint_folder
  # All of its weight files ($weights) are read; checkpoint_files: [...] names some.
  adapter_checkpoint: $adapter_checkpoint  # a file or folder with an adapter to start from; null makes a new one
  recipe_checkpoint: null  # set by resume_from_checkpoint
  output_dir: ${output_dir}
  model_type: $model_type
resume_from_checkpoint: False  # True goes on from the newest whole checkpoint in output_dir
save_every_n_steps: null  # optimizer steps; null saves at the end of each epoch only
save_adapter_weights_only: $save_adapter_weights_only  # True saves the adapters without the merged weights

# On what

dataset:
  _component_: torchtune.datasets.$dataset
  packed: $packed  # True fills every sequence with several samples that do not see each other
batch_size: $batch_size  # sequences per $device_word and forward pass
shuffle: True
seed: null  # null draws one and says which

# How

epochs: 1
max_steps_per_epoch: null  # null takes all of the dataset
gradient_accumulation_steps: $gradient_accumulation_steps  # forward passes per optimizer step
optimizer:
  _component_: $optimizer$optimizer_note
  lr: $lr
  fused: $fused
  weight_decay: $weight_decay
$lr_scheduler
optimizer_in_bwd: $optimizer_in_bwd  # True updates each parameter as its gradient appears: less memory, no clipping
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
clip_grad_norm: null  # the largest norm that all gradients together may have

# Where

device: $device
dtype: bf16  # fp32 takes twice the memory
compile: $compile  # True is faster after a slower start
enable_activation_checkpointing: $activation_checkpointing  # True recomputes activations: less memory, a third slower
enable_activation_offloading: $activation_offloading  # True keeps activations in host memory; needs the line above
fsdp_cpu_offload: $cpu_offload  # True keeps parameters and optimizer state in host memory

# What is reported

log_level: INFO
metric_logger:
  _component_: torchtune.training.metric_logging.DiskLogger
  log_dir: ${output_dir}/logs
log_every_n_steps: 1
log_peak_memory_stats: True
profiler:
  _component_: torchtune.training.setup_torch_profiler
  enabled: False
  output_dir: ${output_dir}/profiling_outputs
  cpu: True
  cuda: True
  profile_memory: False
  with_stack: False
  record_shapes: True
  with_flops: False
  # Steps that are passed over, run untraced for warmth, and traced; then how often this is repeated
  wait_steps: 5
  warmup_steps: 3
  active_steps: 2
  num_cycles: 1
"""

EVALUATION = """\
# Scores of $title on tasks of EleutherAI's lm_eval.
# This file is rendered by scripts/render_configs.py; copy it with `tune cp $name my.yaml` to change it.
#
#   pip install "torchtune[eval]"
#   tune download $repo --output-dir $folder$ignore
#   tune run eleuther_eval --config $name
#
# Point checkpoint_dir to a downloaded model or to what a run wrote (epoch_N). Any key can be changed on the command
# line: tasks=[hellaswag,gsm8k] limit=100 batch_size=16

recipe: eleuther_eval
checkpoint_dir: $folder
output_dir: /tmp/torchtune/$output_dir/evaluation  # results: results_<time>.json

# Which model

model:  # of adapters that were merged into the weights, the builder without lora_
  _component_: torchtune.models.$component
  checkpoint_dir: $model_folder

tokenizer:
  _component_: torchtune.models.$tokenizer
  $tokenizer_files
  max_seq_len: null

checkpointer:
  _component_: torchtune.training.$checkpointer
  checkpoint_dir: ${checkpoint_dir}$checkpoint_folder
  # All of its weight files ($weights) are read; checkpoint_files: [...] names some.
  output_dir: ${output_dir}
  model_type: $model_type
quantizer: null

# On what

tasks: ["truthfulqa_mc2"]  # `lm_eval ls tasks` lists them; the data of most come from the Hugging Face Hub
include_path: null  # folder with the YAML of tasks of your own
limit: null  # samples per task, for a first look; null: all
max_seq_length: 4096  # tokens; of a longer text only the end is read
batch_size: 8  # texts that the model reads at the same time
enable_kv_cache: True  # False computes everything anew for each token of tasks that generate
chat_template: False  # True puts prompts as a dialogue, in the tokenizer's form
log_samples: False  # True writes every prompt, answer and score as well
seed: 1234  # lm_eval's own; another changes which examples prompts begin with, and so the scores

# Where

device: $device
dtype: bf16
log_level: INFO
"""

PAGED_NOTE = "  # GPU only: pip install bitsandbytes; else torch.optim.AdamW"
NO_SCHEDULER = """\
# lr_scheduler:
#   _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
#   num_warmup_steps: 100"""
