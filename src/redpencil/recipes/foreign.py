"""What people type who come from transformers, TRL, LLaMA-Factory or axolotl, and what it is here.

Two tables: names that mean one of our options, and names that mean nothing here, with the reason.
`foreign_option` answers in one sentence. Names are kept with underscores; hyphens read the same.
A test holds that every option of those tools is in one of the tables.
"""

from collections.abc import Iterable

_OURS = {
    "model": "model_name_or_path model_id base_model pretrained_model_name_or_path",
    "data": "dataset_name dataset datasets train_file data_path data_files dataset_path "
    "dataset_dir",
    "eval_data": "eval_dataset test_datasets validation_file eval_data_path",
    "out": "output_dir output run_dir",
    "eval_fraction": "val_size val_set_size test_split_size eval_ratio split_ratio",
    "columns": "column_mapping column_names dataset_text_field field_prompt field_chosen "
    "field_rejected field_messages field_system",
    "chat_template": "chat_template_path chat_template_jinja template",
    "lora_rank": "lora_r lora_dim adapter_rank",
    "batch_size": "per_device_train_batch_size micro_batch_size train_batch_size global_batch_size",
    "epochs": "num_train_epochs num_epochs",
    "learning_rate": "lr",
    "optimizer": "optim",
    "weight_decay": "wd",
    "warmup_steps": "num_warmup_steps",
    "schedule": "lr_scheduler_type lr_scheduler",
    "max_grad_norm": "gradient_clipping clip_grad_norm grad_clip",
    "max_length": "cutoff_len sequence_len max_seq_length max_seq_len model_max_length "
    "eval_sequence_len max_prompt_length max_prompt_len",
    "activation_checkpointing": "gradient_checkpointing",
    "eval_every": "eval_steps evals_per_epoch",
    "checkpoint_every": "save_steps saves_per_epoch",
    "keep_checkpoints": "save_total_limit",
    "log_every": "logging_steps",
    "seed": "data_seed random_seed",
    "loss": "loss_type pref_loss dpo_loss_type rl",
    "beta": "pref_beta rl_beta kl_coef init_kl_coef",
    "label_smoothing": "dpo_label_smoothing",
    "reference": "ref_model ref_model_name_or_path",
    "centring": "center_rewards_coefficient",
    "reward": "reward_model reward_funcs reward_model_path",
    "num": "num_generations num_return_sequences",
    "max_new_tokens": "max_completion_length response_length generation_max_new_tokens",
    "passes": "ppo_epochs num_ppo_epochs num_iterations",
    "clip": "epsilon cliprange clip_range",
    "gae_lambda": "lam",
    "value_coefficient": "vf_coef",
    "advantage": "advantage_estimator",
    "sample_tokens": "generate_max_len",
    "sample_prompts": "num_generation_samples",
}
"""Our option: names that others have for it."""

_NOTES = {
    "per_device_train_batch_size": "prompts in an optimizer step; --max-tokens, found by itself, "
    "is what must fit the device",
    "micro_batch_size": "prompts in an optimizer step; --max-tokens, found by itself, is what must "
    "fit the device",
    "lora_r": "above 0 it switches adapters on",
    "max_prompt_length": "prompt and response together; a prompt loses its oldest tokens first",
    "max_prompt_len": "prompt and response together; a prompt loses its oldest tokens first",
    "optim": "adamw or rmsprop",
    "rl": "of the command `redpencil dpo`",
    "evals_per_epoch": "in steps",
    "saves_per_epoch": "in steps",
    "reward_model": "of the command `redpencil rl`; `redpencil reward` trains one",
    "advantage_estimator": "rloo or gae",
    "gradient_checkpointing": "on, off, or auto: where activations would not fit",
}

_SAYS = {
    "lora_rank": {
        "use_peft": "--lora-rank 16 trains adapters, --lora-rank 0 all weights",
        "adapter": "--lora-rank 16 trains adapters, --lora-rank 0 all weights",
        "finetuning_type": "--lora-rank 16 trains adapters, --lora-rank 0 all weights",
        "peft": "--lora-rank 16 trains adapters, --lora-rank 0 all weights",
        "merge_lora": "RUN/model is always merged, and RUN/adapter is the adapter alone",
        "create_new_adapter": "an adapter given as --model is merged, and a new one is trained",
        "lora_model_dir": "give the adapter's folder as --model: it is merged into its base",
        "adapter_name_or_path": "give the adapter's folder as --model: it is merged into its base",
    },
    "batch_size": {
        "gradient_accumulation_steps": "--batch-size counts the prompts of a whole optimizer "
        "step; it is cut into as many micro-batches as the memory needs (--max-tokens)",
        "auto_find_batch_size": "always so: --max-tokens auto finds what fits, and --batch-size "
        "is kept",
        "per_device_eval_batch_size": "evaluation is cut by --max-tokens as training is",
        "eval_batch_size": "evaluation is cut by --max-tokens as training is",
        "eval_accumulation_steps": "evaluation is cut by --max-tokens as training is",
    },
    "warmup_steps": {
        "warmup_ratio": "--warmup-steps counts steps; its default is a tenth of all, at most 150",
    },
    "checkpoint_every": {
        "resume_from_checkpoint": "the same command goes on from the newest checkpoint of --out",
        "auto_resume_from_checkpoints": "the same command goes on from the newest checkpoint of "
        "--out",
        "save_strategy": "--checkpoint-every N saves each N steps, and the last one always",
        "save_only_model": "checkpoints hold what a bitwise resume needs; RUN/model is the model",
    },
    "eval_every": {
        "eval_strategy": "--eval-every N evaluates each N steps, before the first and after the "
        "last",
        "evaluation_strategy": "--eval-every N evaluates each N steps, before the first and after "
        "the last",
        "eval_on_start": "always so: step 0 is evaluated",
        "do_eval": "always so where there are held-out pairs: --eval-fraction 0 leaves it out",
        "do_train": "the command trains; `redpencil eval` measures",
        "do_predict": "`redpencil generate` writes completions",
        "load_best_model_at_end": "the best step's checkpoint is kept: "
        "`redpencil export RUN OUT --step best`",
        "metric_for_best_model": "the best step is that of the lowest held-out loss: "
        "`redpencil export RUN OUT --step best`",
    },
    "out": {
        "overwrite_output_dir": "nothing is ever written over: name another --out",
        "run_name": "a run is known by its folder, --out",
        "export_dir": "`redpencil export RUN OUT` writes the model's folder",
    },
    "stage": {
        "stage": "the stages are commands: redpencil sft, reward, dpo, rl",
        "trainer_cls": "the stages are commands: redpencil sft, reward, dpo, rl",
    },
    "config": {
        "config": "`redpencil run recipe.yaml` takes a file of options",
        "trl": "its options are options of a command: redpencil dpo --beta 0.1",
    },
    "tokens": {
        "padding_free": "always so: prompts and responses are laid flat as trees, without padding",
        "packing": "always so: a micro-batch is filled with whole trees, without padding",
        "sample_packing": "always so: a micro-batch is filled with whole trees, without padding",
        "neat_packing": "always so: a micro-batch is filled with whole trees, without padding",
        "group_by_length": "there is no padding that it could save",
        "precompute_ref_log_probs": "always so: the reference is computed once and kept (--cache)",
        "precompute_ref_batch_size": "the reference's pass is cut by --max-tokens as training is",
        "disable_dropout": "always so: dropout is off",
        "use_liger_kernel": "always so: logits are computed in chunks and never held whole",
        "enable_liger_kernel": "always so: logits are computed in chunks and never held whole",
        "use_liger_loss": "always so: logits are computed in chunks and never held whole",
        "train_on_prompt": "only responses are scored",
        "train_on_inputs": "only responses are scored",
        "completion_only_loss": "always so: only responses are scored",
        "assistant_only_loss": "always so: only assistant turns of a response are scored",
        "truncation_mode": "a prompt loses its oldest tokens; a response is never cut",
        "excess_length_strategy": "a prompt loses its oldest tokens; a response is never cut, a "
        "row that is too long is set aside",
        "use_tensorboard": "always so: RUN/tensorboard",
        "report_to": "a run writes RUN/metrics.jsonl, RUN/tensorboard and RUN/report.html",
        "plot_loss": "always so: RUN/report.html has the curves",
        "disable_tqdm": "--quiet shows no progress",
        "log_level": "--quiet and --verbose say more or less",
        "log_completions": "RUN/samples.jsonl and the report show samples",
        "early_stopping_steps": "not here; the best step's checkpoint is kept: "
        "`redpencil export RUN OUT --step best`",
        "early_stopping_patience": "not here; the best step's checkpoint is kept: "
        "`redpencil export RUN OUT --step best`",
        "max_samples": "give a smaller file; --max-steps ends a run early",
        "tokenizer_name": "the tokenizer is the one beside the model",
        "tokenizer_config": "the tokenizer is the one beside the model",
        "compute_accuracy": "always so: rewards/accuracies, with its interval in the report",
        "dataset_exact_deduplication": "`redpencil check FILE --fix OUT` removes duplicates",
        "include_tokens_per_second": "always so: tokens_per_second",
        "include_effective_tokens_per_second": "always so: tokens_per_second",
        "reward_model_adapters": "give a reward adapter's folder as --reward",
    },
}
"""What needs a sentence of its own. The outer names only keep the table in order."""

_ABSENT = {
    "redpencil trains in one process on one device": "deepspeed fsdp fsdp_config fsdp_version "
    "fsdp_final_state_dict_type ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers "
    "ddp_find_unused_parameters ddp_static_graph ddp_backend local_rank world_size device_map "
    "accelerator_config parallelism_config sequence_parallel_degree context_parallel_size "
    "ring_attn_func heads_k_stride tensor_parallel_size dp_shard_size dp_replicate_size "
    "deepcompile average_tokens_across_devices log_on_each_node save_on_each_node "
    "log_level_replica use_hyper_parallel hyper_parallel_args use_mca ray_num_workers "
    "ray_init_kwargs master_addr master_port fp8_enable_fsdp_float8_all_gather",
    "the device is found by itself (CUDA, Apple's, else the CPU)": "device use_cpu no_cuda "
    "max_memory gpu_memory_limit",
    "weights are float32, and so are products on a CPU; on CUDA they are bfloat16": "bf16 fp16 "
    "tf32 fp8 bfloat16 float16 float32 bf16_full_eval fp16_full_eval dtype torch_dtype pure_bf16 "
    "compute_dtype infer_dtype fp8_backend fp8_config upcast_layernorm upcast_lmhead_output "
    "embeddings_skip_upcast fp32_norms fp32_norm_classes half_precision_backend",
    "quantised weights cannot be trained here": "load_in_8bit load_in_4bit bnb_4bit_quant_type "
    "use_bnb_nested_quant bnb_4bit_quant_storage bnb_config_kwargs quantization_method "
    "quantization_bit quantization_type double_quantization quantization_device_map gptq "
    "quantization qat ref_model_quantization_bit reward_model_quantization_bit "
    "quantize_moe_experts model_quantization_config model_quantization_config_kwargs "
    "use_onebitllms export_quantization_bit export_quantization_dataset "
    "export_quantization_nsamples export_quantization_maxlen qlora_sharded_model_loading "
    "loftq_config",
    "adapters are LoRA on all linear layers (--lora-rank, --lora-alpha)": "lora_dropout "
    "lora_target_modules lora_target_linear lora_target lora_target_parameters "
    "lora_modules_to_save lora_task_type use_rslora use_dora peft_use_dora peft_use_rslora "
    "additional_target loraplus_lr_ratio loraplus_lr_embedding pissa_init pissa_iter "
    "pissa_convert oft_rank oft_block_size oft_target module_dropout lora_fan_in_fan_out "
    "lora_rank_pattern lora_alpha_pattern peft_layers_to_transform peft_layers_pattern "
    "peft_layer_replication peft_init_lora_weights peft_trainable_token_indices "
    "peft_ensure_weight_tying peft_autocast_adapter_dtype lora_on_cpu relora "
    "relora_prune_ratio relora_prune_method relora_cpu_offload merge_method lora_mlp_kernel "
    "lora_qkv_kernel lora_o_kernel lora_embedding_kernel adapter_folder ref_model_adapters",
    "all weights are trained, or adapters (--lora-rank)": "freeze_trainable_layers "
    "freeze_trainable_modules freeze_extra_modules freeze_vision_tower "
    "freeze_multi_modal_projector freeze_language_model freeze_mm_modules unfrozen_parameters "
    "use_llama_pro ignore_bias_buffers train_from_scratch reinit_weights",
    "the optimizers are adamw and rmsprop": "optim_args optim_target_modules adam_beta1 adam_beta2 "
    "adam_beta3 adam_epsilon adam_epsilon2 use_galore galore_target galore_rank "
    "galore_update_interval galore_scale galore_proj_type galore_layerwise use_apollo "
    "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj "
    "apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front use_badam "
    "badam_mode badam_start_block badam_switch_mode badam_switch_interval "
    "badam_update_ratio badam_mask_mode badam_verbose use_adam_mini use_muon dion_lr "
    "dion_momentum dion_rank_fraction dion_rank_multiple_of qgalore_rank "
    "qgalore_update_proj_gap qgalore_scale qgalore_proj_type qgalore_proj_quant "
    "qgalore_proj_bits qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj "
    "qgalore_queue_size torchdistx_path embedding_lr embedding_lr_scale lr_groups",
    "the schedules are constant, linear and cosine, each down to 0": "lr_scheduler_kwargs "
    "lr_quadratic_warmup cosine_min_lr_ratio cosine_constant_lr_ratio lr_div_factor "
    "jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps",
    "the losses are dpo, ipo, hinge, plackett-luce and unlikelihood": "loss_weights ld_alpha "
    "f_divergence_type f_alpha_divergence_coef use_weighting dpo_use_weighting discopop_tau "
    "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps pref_ftx pref_bco_weight "
    "kto_chosen_weight kto_rejected_weight kto_desirable_weight kto_undesirable_weight "
    "simpo_gamma orpo_alpha cpo_alpha rpo_alpha use_dft_loss use_asft_loss asft_alpha "
    "use_eaft_loss eaft_alpha use_eaft eaft_k dpo_loss_weights label_smoothing_factor "
    "neftune_noise_alpha process_reward_model num_labels reward_model_type",
    "a router's auxiliary loss is not added": "router_aux_loss_coef moe_aux_loss_coef "
    "mixture_of_depths",
    "the options of RL are those of `redpencil rl --help`": "ppo_buffer_size ppo_score_norm "
    "ppo_target ppo_whiten_rewards reward_weights generation_batch_size "
    "num_completions_to_print importance_sampling_level scale_rewards epsilon_high "
    "mask_truncated_completions "
    "entropy_coef use_adaptive_entropy entropy_target entropy_coef_delta entropy_coef_min "
    "entropy_coef_max log_multimodal rollout_func multi_objective_aggregation "
    "use_data_producer async_prefetch prefetch_depth streaming_partial_batch "
    "streaming_min_groups off_policy_mask_threshold use_bias_correction_kl "
    "reward_num_workers replay_buffer_size replay_recompute_logps reroll_start_fraction "
    "reroll_max_groups skip_zero_advantage_batches ebft",
    "completions are drawn from the whole distribution at --temperature": "top_p top_k min_p "
    "repetition_penalty generation_kwargs generate_samples generation_temperature "
    "generation_top_p generation_top_k generation_prompt_ratio generation_do_sample "
    "do_sample num_beams eval_num_beams",
    "completions are sampled by transformers": "use_vllm vllm vllm_mode vllm_server_host "
    "vllm_server_port vllm_server_timeout vllm_guided_decoding_regex "
    "vllm_importance_sampling_clip_min vllm_importance_sampling_clip_max "
    "vllm_importance_sampling_correction vllm_importance_sampling_mode "
    "vllm_importance_sampling_cap vllm_enable_sleep_mode vllm_sync_interval vllm_lora_sync "
    "vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config "
    "sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend "
    "infer_backend use_kt kt_weight_path kt_expert_checkpoint_path kt_use_lora_experts "
    "kt_lora_expert_num kt_lora_expert_intermediate_size",
    "attention over trees is chosen by itself": "attn_implementation flash_attn shift_attn "
    "block_diag_attn xformers_attention sdp_attention flex_attention flex_attn_compile_kwargs "
    "flash_attention flash_attn_cross_entropy flash_attn_fuse_mlp flash_optimum sage_attention "
    "eager_attention gemma4_hybrid_attn_impl large_head_attention flash_attn_d512 sdpa_varlen "
    "fused_attn_kernel scaling_softmax scaling_softmax_factor scaling_softmax_bias",
    "what a step computes with is chosen by itself (`redpencil plan` says it)": "torch_compile "
    "torch_compile_backend torch_compile_mode torch_compile_options liger_kernel_config "
    "use_cache use_kv_cache torch_empty_cache_steps gc_steps gc_collect_steps "
    "gradient_checkpointing_kwargs activation_checkpointing_kwargs disable_gradient_checkpointing "
    "use_reentrant_gc selective_checkpointing activation_offloading layer_offloading "
    "offload_folder low_cpu_mem_usage use_unsloth use_unsloth_gc use_v1_kernels use_kernels "
    "chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards "
    "tiled_mlp_use_original_mlp experts_implementation llama4_linearized_experts ple_cpu_offload "
    "dpo_use_liger_kernel full_determinism experimental_skip_move_to_device",
    "the data are read, shuffled and laid as trees by redpencil (docs/data.md)": "dataset_num_proc "
    "preprocessing_num_workers preprocessing_batch_size dataset_processes dataset_kwargs "
    "dataset_config dataset_train_split dataset_test_split dataset_streaming streaming "
    "buffer_size mix_strategy interleave_probs overwrite_cache dataset_prepared_path "
    "dataset_shard_num dataset_shard_idx skip_prepare_dataset num_dataset_shards_to_save "
    "pretraining_dataset dataset_keep_in_memory shuffle_merged_datasets "
    "shuffle_before_merging_datasets shuffle_dataset disable_shuffling dataloader_drop_last "
    "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
    "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order "
    "remove_unused_columns label_names train_sampling_strategy length_column_name "
    "pad_to_multiple_of pad_to_sequence_len packing_strategy eval_packing eval_sample_packing "
    "sample_packing_group_size sample_packing_bin_size sample_packing_sequentially "
    "sample_packing_mp_start_method sample_packing_eff_est curriculum_sampling "
    "multipack_real_batches batch_flattening dpo_padding_free pretrain_multipack_buffer_size "
    "pretrain_multipack_attn pretraining_sample_concatenation streaming_multipack_buffer_size "
    "use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks min_sample_len "
    "ignore_pad_token_for_loss mask_history tokenized_path data_shared_file_system media_dir "
    "eval_on_each_dataset ignore_data_skip is_preprocess preprocess_iterable total_num_tokens "
    "total_supervised_tokens tool_format push_dataset_to_hub cache_dir path data_dir split "
    "fraction name",
    "the chat template renders a dialogue as it is": "default_system default_system_message "
    "enable_thinking preserve_thinking chat_template_kwargs eot_tokens "
    "tokenizer_save_jinja_files",
    "the tokenizer is taken as it is": "pad_token eos_token special_tokens tokens "
    "added_tokens_overrides add_tokens add_special_tokens new_special_tokens_config "
    "init_special_tokens resize_vocab split_special_tokens use_fast_tokenizer "
    "tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common tokenizer_type "
    "resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings "
    "fix_untrained_tokens",
    "the model is taken as its folder or Hub name gives it": "model_revision model_init_kwargs "
    "base_model_config cls_model_config rope_scaling hf_hub_token ms_hub_token om_hub_token "
    "hf_use_auth_token print_param_status processor_type processor_kwargs "
    "is_falcon_derived_model is_llama_derived_model is_mistral_derived_model "
    "is_qwen_derived_model plugins axolotl_config_path strict dynamic_checkpoint",
    "pictures, video and sound are not supported": "image_max_pixels image_min_pixels "
    "image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps "
    "video_maxlen use_audio_in_video audio_sampling_rate",
    "evaluation measures the held-out pairs (`redpencil eval`)": "eval_delay prediction_loss_only "
    "eval_do_concat_batches eval_use_gather_object include_for_metrics batch_eval_metrics "
    "greater_is_better do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset "
    "bench_split",
    "checkpoints are what the next start goes on from": "enable_jit_checkpoint save_first_step "
    "restore_callback_states_from_checkpoint save_safetensors",
    "a run writes RUN/metrics.jsonl, RUN/tensorboard and RUN/report.html": "logging_strategy "
    "logging_first_step logging_nan_inf_filter include_num_input_tokens_seen include_tkps "
    "project trackio_space_id trackio_bucket_id trackio_static_space_id use_swanlab "
    "swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key "
    "swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret wandb_project wandb_entity "
    "wandb_name logging_dir",
    "nothing is uploaded": "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy "
    "hub_always_push hub_revision export_hub_model_id",
    "`redpencil export RUN OUT` writes a Hugging Face folder": "export_size export_device "
    "export_legacy_format",
    "a non-finite loss stops a run before the update (exit code 3)": "loss_watchdog_threshold "
    "loss_watchdog_patience",
    "there is no built-in profiler": "debug skip_memory_metrics profiler_steps "
    "profiler_steps_start enable_torch_profiler profiler_output_dir profiler_wait_steps "
    "profiler_warmup_steps profiler_active_steps profiler_repeat profiler_record_shapes "
    "profiler_profile_memory profiler_with_stack profile_modules",
}
"""A reason: names that have no counterpart because of it."""

_MEANT = {theirs: ours for ours, names in _OURS.items() for theirs in names.split()}
_SENTENCES = {name: said for group in _SAYS.values() for name, said in group.items()}
_REASONS = {name: reason for reason, names in _ABSENT.items() for name in names.split()}

FOREIGN = frozenset({*_MEANT, *_SENTENCES, *_REASONS})
"""Every foreign name that has an answer."""

_LOSSES = {"sigmoid": "dpo", "rlhf": "dpo", "cdpo": "dpo", "plackett_luce": "plackett-luce"}
_FURTHER_LOSSES = (
    "simpo orpo cpo kto kto_pair bco bco_pair robust exo_pair nca nca_pair sppo sppo_hard aot",
    "aot_pair aot_unpaired apo_zero apo_down discopop sigmoid_norm rdpo r_dpo rpo cal_dpo beta_dpo",
    "dr_dpo tdpo wpo ld_dpo sampo alphapo chi_po f_dpo tr_dpo slic odpo dpop",
)
_OTHER_LOSSES = frozenset(name for line in _FURTHER_LOSSES for name in line.split())


def plain(name: str) -> str:
    """An option as it may be typed, `--output-dir`, by the name of a field: `output_dir`."""
    return name.lstrip("-").replace("-", "_").lower()


def foreign_option(typed: str, known: Iterable[str]) -> str | None:
    """What an option of another tool is here, as the end of a sentence; None for a name of none.

    known: the fields of the command at hand: an option of another command names that one.
    """
    name = plain(typed)
    if name in _SENTENCES:
        return _SENTENCES[name]
    if name in _REASONS:
        return f"it has no counterpart here: {_REASONS[name]}"
    if name not in _MEANT:
        return None
    ours = _MEANT[name]
    note = f" ({_NOTES[name]})" if _NOTES.get(name) else ""
    flag = f"--{ours.replace('_', '-')}"
    if ours in set(known):
        return f"here it is {flag}{note}"
    return f"here it is {flag}{note}, which this command does not have"


def foreign_loss(typed: str) -> str | None:
    """What a loss of the field is here, as the end of a sentence; None for a name of none."""
    name = plain(typed)
    if name in _LOSSES:
        return f'here it is "{_LOSSES[name]}"'
    if name in ("sft", "nll"):
        return "that is the command `redpencil sft`"
    if name in ("ppo", "rloo", "grpo"):
        return "that is the command `redpencil rl`"
    return "it is not among those that are here" if name in _OTHER_LOSSES else None
