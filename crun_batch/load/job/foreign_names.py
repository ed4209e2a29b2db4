"""Where the things live here that other tools and SDKs call otherwise.

The names are those of OpenAI's and Anthropic's SDKs and APIs, LiteLLM, LangChain, distilabel, curator,
inspect_ai, lm-eval, promptfoo and Hugging Face datasets, as their public references write them.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES: Mapping[str, str] = {
    "limits.max_attempts": "max_retries retries num_retries max_tries max_attempts retry retry_attempts"
    " max_retry_attempts tries attempts",
    "limits.attempt_timeout_seconds": "timeout request_timeout timeout_seconds timeout_s timeout_ms"
    " attempt_timeout read_timeout api_timeout",
    "limits.concurrency": "concurrency max_concurrency max_concurrent max_concurrent_requests workers num_workers"
    " max_workers parallelism parallel threads num_threads max_parallel max_connections num_proc batch_size"
    " max_parallel_requests semaphore n_jobs num_concurrent",
    "limits.requests_per_minute": "rpm requests_per_minute max_requests_per_minute rate_limit rate_limits qpm",
    "limits.tokens_per_minute": "tpm tokens_per_minute max_tokens_per_minute",
    "budget.max_cost_usd": "max_cost max_cost_usd max_budget cost_limit budget_usd max_usd max_spend max_dollars",
    "budget.max_cost_credits": "max_credits max_cost_credits credit_limit",
    "endpoint.base_url": "base_url api_base api_url url host openai_api_base openai_base_url server api_host"
    " anthropic_base_url backend",
    "endpoint.api_key_env": "api_key_env key_env api_key_var api_key_variable env_key",
    "endpoint.protocol": "protocol api_type endpoint_type api provider_type",
    "endpoint.headers": "headers extra_headers default_headers custom_headers",
    "endpoint.stream": "stream streaming",
    "prompt.system": "system system_prompt system_message system_instruction system_instructions instructions"
    " developer_prompt preamble",
    "prompt.user": "user user_prompt prompt_template template user_message user_template question text"
    " prompt_text doc_to_text",
    "prompt.messages": "messages conversation few_shot few_shots fewshot examples shots history",
    "prompt.messages_column": "messages_column chat_column conversation_column",
    "prompt.body_column": "body body_column request_column",
    "input.table": "table data dataset datasets data_file data_files data_path dataset_path file files input_file"
    " input_path path source csv_file",
    "input.query": "sql query",
    "input.where": "where filter filters",
    "input.id": "id id_column id_field key_column index index_column primary_key",
    "input.limit": "limit max_rows num_rows n_rows max_examples num_examples head max_samples_rows",
    "input.sample": "sample sampling subset shuffle",
    "input.csv": "delimiter separator sep encoding quotechar",
    "input.sheet": "sheet sheet_name worksheet",
    "output.dir": "output_dir out_dir output_path out outdir output_folder run_dir save_path results_dir",
    "output.columns": "columns output_columns keep_columns carry",
    "output_schema": "schema json_schema response_schema response_format response_model output_format"
    " structured_output guided_json pydantic_model output_model text_format",
    "repeats": "num_samples n_samples samples num_generations repeat epochs num_repeats trials runs",
    "repair_attempts": "repairs max_repairs repair reasks max_reasks",
    "score": "scores scorer scorers grader graders metrics metric evals eval evaluation evaluators assert asserts"
    " assertions judge judges tests",
    "sweep": "sweeps grid matrix variants parameters param_grid models axes providers",
    "prices": "pricing price costs cost prices_per_token input_cost_per_token",
    "share_identical": "dedup deduplicate cache caching use_cache",
    "model": "model model_name model_id engine deployment llm deployment_name",
}
_PARAMS = (
    "temperature top_p top_k min_p typical_p seed stop stop_sequences frequency_penalty presence_penalty"
    " repetition_penalty logprobs top_logprobs logit_bias n best_of max_output_tokens max_tokens"
    " max_completion_tokens max_new_tokens max_tokens_to_sample reasoning reasoning_effort thinking effort"
    " verbosity tools tool_choice parallel_tool_calls modalities service_tier store metadata user_id"
    " safety_settings generation_config extra_body"
)
_OUTPUT_LIMITS = ("max_new_tokens", "max_tokens_to_sample", "max_output_length")


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _table() -> dict[str, str]:
    params = {_plain(name): f"params.{name}" for name in _PARAMS.split()}
    params |= {_plain(name): "params.max_output_tokens" for name in _OUTPUT_LIMITS}
    return params | {_plain(name): key for key, names in _NAMES.items() for name in names.split()}


PLACES: Mapping[str, str] = _table()
"""A name, without case and separators -> our key."""


def our_key(name: str) -> str | None:
    """The key of ours that another tool calls `name`; None where we know of none."""
    return PLACES.get(_plain(name))
