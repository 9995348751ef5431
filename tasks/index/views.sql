-- Views of the index. Run once by tasks/index.py, after its tables are loaded.
--
-- Two traps are met here. DuckDB sorts NaN above every number, so NaN >= 1 is true: every
-- comparison of a loss is guarded by isfinite. And "right" is a reserved word: the column is
-- called right_calls.

-- e(c) or e(c, r), spelled as toolformer_core.notation spells it.
CREATE MACRO escape_call_text(raw) AS replace(replace(replace(replace(replace(replace(
    raw, '\', '\\'), '[', '\['), ']', '\]'), chr(10), '\n'), chr(13), '\r'), '->', '-\>');

-- A sample that is no call is shown as the model wrote it; one without an answer, without arrow.
CREATE MACRO call_text(tool, argument, result, outcome, reason) AS CASE
    WHEN reason IN ('not_closed', 'malformed') THEN argument
    WHEN outcome = 'ok'
        THEN '[' || tool || '(' || escape_call_text(argument) || ') -> '
            || escape_call_text(result) || ']'
    ELSE '[' || tool || '(' || escape_call_text(argument) || ')]'
END;

-- char_offset counts code points, as substring does.
CREATE MACRO text_before(document_text, char_offset) AS
    substring(document_text, greatest(char_offset - 159, 1), least(char_offset, 160));
CREATE MACRO text_after(document_text, char_offset) AS
    substring(document_text, char_offset + 1, 120);

-- Whether a loss is lower than its control's; one that was not measured counts as beaten.
CREATE MACRO beats(loss, control) AS control IS NULL OR (NOT isnan(control) AND loss < control);

-- What the stages wrote, one row per record. All of it lies in the table calls (calls.sql).
CREATE VIEW proposed_calls AS
SELECT
    candidate_id, document_id, tool, char_offset, token_index, window_start, window_end,
    start_probability, sample_index, argument, loss_without_call, token_losses_without_call,
    drop_reason
FROM calls;
COMMENT ON VIEW proposed_calls IS 'Stage sample: one row per sampled call';

CREATE VIEW executed_calls AS
SELECT
    candidate_id, document_id, tool, char_offset, token_index, window_start, window_end, argument,
    loss_without_call, tool_version, outcome, outcome_reason, result, latency_seconds
FROM calls WHERE outcome IS NOT NULL;
COMMENT ON VIEW executed_calls IS 'Stage execute: one row per call that a tool was asked';

CREATE VIEW scored_calls AS
SELECT
    candidate_id, document_id, tool, char_offset, token_index, argument, result,
    loss_without_call, loss_with_empty_result, loss_with_result, loss_with_wrong_result,
    loss_with_shuffled_result, loss_reduction, scored_tokens, token_losses_with_empty_result,
    token_losses_with_result, is_right
FROM calls WHERE loss_with_result IS NOT NULL;
COMMENT ON VIEW scored_calls IS 'Stage score: one row per call whose losses were measured';

CREATE VIEW filter_decisions AS
SELECT
    candidate_id, document_id, tool, char_offset, argument, result, loss_reduction,
    filtering_threshold, kept, filter_reason AS drop_reason, is_right
FROM calls WHERE kept IS NOT NULL;
COMMENT ON VIEW filter_decisions IS 'Stage filter: one row per scored call, kept or dropped';

-- One row per sampled call, through all stages. A call that its stage has not decided yet
-- (an interrupted run) is not kept, with the reason "undecided": the funnel still adds up.
-- loss_reduction is null where the call could not be kept at any threshold of the run and one of
-- its losses was not measured; loss_reduction_at_most then bounds it.
CREATE VIEW candidates AS
SELECT
    candidate_id,
    document_id,
    tool,
    char_offset,
    window_start,
    window_end,
    start_probability,
    sample_index,
    argument,
    outcome,
    outcome_reason,
    result,
    loss_without_call,
    loss_with_empty_result,
    loss_with_result,
    loss_with_wrong_result,
    loss_with_shuffled_result,
    CASE WHEN loss_with_empty_result IS NOT NULL THEN calls.loss_reduction END AS loss_reduction,
    calls.loss_reduction AS loss_reduction_at_most,
    scored_tokens,
    token_losses_without_call,
    token_losses_with_empty_result,
    token_losses_with_result,
    filtering_threshold,
    coalesce(calls.kept, false) AS kept,
    CASE WHEN coalesce(calls.kept, false) THEN NULL ELSE coalesce(
        drop_reason, nullif(outcome, 'ok'), filter_reason, 'undecided'
    ) END AS reason,
    is_right,
    latency_seconds,
    url,
    date,
    source
FROM calls;
COMMENT ON VIEW candidates IS
'One row per sampled call: outcome, losses in nats, verdict, and why it was dropped';

-- How many calls of a tool ended in which way: what the funnel and the drops sum up.
CREATE TABLE fates AS
SELECT
    tool, reason, outcome, loss_reduction_at_most IS NOT NULL AS is_scored, kept, is_right,
    count(*) AS n
FROM candidates GROUP BY ALL;
COMMENT ON TABLE fates IS 'Number of calls per tool, reason, outcome, verdict and is_right';

-- Each call counts once, at the highest threshold that it reaches: no join of calls by thresholds.
-- Left out at every threshold: calls that do not beat their control.
CREATE TABLE reached_thresholds AS
WITH finite AS (
    SELECT tool, loss_reduction, is_right
    FROM candidates
    WHERE isfinite(loss_reduction) AND reason IS DISTINCT FROM 'not_finite'
        AND beats(loss_with_result, loss_with_wrong_result)
        AND beats(loss_with_result, loss_with_shuffled_result)
)
SELECT
    finite.tool,
    thresholds.filtering_threshold,
    count(*) AS n,
    count(is_right) AS n_checkable,
    count(*) FILTER (is_right) AS n_right
FROM finite
ASOF JOIN thresholds
    ON finite.tool = thresholds.tool
    AND finite.loss_reduction >= thresholds.filtering_threshold
GROUP BY finite.tool, thresholds.filtering_threshold;
COMMENT ON TABLE reached_thresholds IS
'Number of calls per tool and the highest filtering threshold (nats) that they reach';

-- Counts from documents to kept calls, one row per tool, in the order of the settings.
CREATE VIEW funnel AS
WITH sampled AS (
    SELECT
        tool,
        sum(n) FILTER (reason = 'documents') AS documents,
        sum(n) FILTER (reason = 'positions') AS positions
    FROM stage_counts WHERE stage = 'sample' GROUP BY tool
),
counted AS (
    SELECT
        tool,
        sum(n) AS calls,
        sum(n) FILTER (reason IS NULL OR reason NOT IN ('not_closed', 'malformed')) AS parsed,
        sum(n) FILTER (outcome = 'ok') AS executed,
        sum(n) FILTER (is_scored) AS scored,
        sum(n) FILTER (kept) AS kept,
        sum(n) FILTER (kept AND is_right IS NOT NULL) AS checkable,
        sum(n) FILTER (kept AND is_right) AS right_calls
    FROM fates GROUP BY tool
)
SELECT
    tools.tool,
    coalesce(documents, 0)::BIGINT AS documents,
    coalesce(positions, 0)::BIGINT AS positions,
    coalesce(calls, 0)::BIGINT AS calls,
    coalesce(parsed, 0)::BIGINT AS parsed,
    coalesce(executed, 0)::BIGINT AS executed,
    coalesce(scored, 0)::BIGINT AS scored,
    coalesce(kept, 0)::BIGINT AS kept,
    coalesce(checkable, 0)::BIGINT AS checkable,
    coalesce(right_calls, 0)::BIGINT AS right_calls
FROM tools
LEFT JOIN sampled USING (tool)
LEFT JOIN counted USING (tool)
ORDER BY tool_order;
COMMENT ON VIEW funnel IS
'Per tool: documents, positions, calls, parsed, executed, scored, kept, checkable, right_calls';

-- Documents by the rule that makes them worth trying (heuristics), per tool.
CREATE VIEW documents_by_rule AS
SELECT tool, regexp_replace(reason, '^rule_', '') AS rule, sum(n)::BIGINT AS n
FROM stage_counts
WHERE stage = 'sample' AND (reason LIKE 'rule\_%' ESCAPE '\' OR reason = 'documents_not_qualified')
GROUP BY tool, rule
ORDER BY tool, n DESC, rule;
COMMENT ON VIEW documents_by_rule IS
'Per tool: documents that qualify by each rule of the heuristic, and documents_not_qualified';

-- Dropped calls by reason; with the kept ones they sum to all calls.
CREATE VIEW drops AS
SELECT tool, reason, sum(n)::BIGINT AS n
FROM fates WHERE NOT kept
GROUP BY tool, reason
ORDER BY tool, n DESC, reason;
COMMENT ON VIEW drops IS 'Dropped calls per tool and reason';

-- Yield at every threshold, from the stored losses: the bins are summed from above.
CREATE VIEW threshold_sweep AS
SELECT
    tool,
    filtering_threshold,
    (sum(coalesce(n, 0)) OVER from_above)::BIGINT AS kept,
    (sum(coalesce(n_checkable, 0)) OVER from_above)::BIGINT AS checkable,
    (sum(coalesce(n_right, 0)) OVER from_above)::BIGINT AS right_calls,
    is_in_force
FROM thresholds
JOIN tools USING (tool)
LEFT JOIN reached_thresholds USING (tool, filtering_threshold)
WINDOW from_above AS (PARTITION BY tool ORDER BY filtering_threshold DESC)
ORDER BY tool_order, filtering_threshold;
COMMENT ON VIEW threshold_sweep IS
'Per tool and filtering threshold (nats): calls that would be kept, checkable ones, right ones';

-- Ten kept calls per tool, largest loss_reduction first, with the text around them. Found once, when
-- the index is built: to find them, all calls are read.
CREATE TABLE best_kept AS
WITH ranked AS (
    SELECT tool, candidate_id, row_number() OVER (
        PARTITION BY tool ORDER BY loss_reduction DESC, candidate_id
    ) AS example_rank
    FROM candidates WHERE kept
    QUALIFY example_rank <= 10
)
SELECT
    shown.* EXCLUDE (url, date, source),
    example_rank,
    text_before(documents.text, char_offset) AS text_before,
    call_text(tool, argument, result, outcome, reason) AS call,
    text_after(documents.text, char_offset) AS text_after,
    shown.url,
    shown.date,
    shown.source
FROM candidates AS shown
JOIN ranked USING (tool, candidate_id)
JOIN tools USING (tool)
LEFT JOIN documents USING (document_id)
ORDER BY tool_order, example_rank;
COMMENT ON TABLE best_kept IS 'The rows of kept_examples';

CREATE VIEW kept_examples AS FROM best_kept;
COMMENT ON VIEW kept_examples IS
'Ten kept calls per tool, best loss_reduction first, with 160 characters before and 120 after';

-- Ten dropped calls per tool, taken from the reasons in turn (most frequent reason first);
-- within a reason the nearest miss comes first, or, without losses, the likeliest position.
CREATE TABLE nearest_dropped AS
WITH by_reason AS (
    SELECT tool, reason, count(*) AS n_of_reason, min_by(candidate_id, {
        'short_of': CASE WHEN isfinite(loss_reduction) THEN -loss_reduction ELSE 'infinity' END,
        'improbability': -start_probability,
        'candidate_id': candidate_id
    }, 10) AS nearest
    FROM candidates WHERE NOT kept
    GROUP BY tool, reason
),
ranked AS (
    SELECT tool, nearest[rank_in_reason] AS candidate_id, row_number() OVER (
        PARTITION BY tool ORDER BY rank_in_reason, n_of_reason DESC, reason
    ) AS example_rank
    FROM by_reason, range(1, 11) AS ranks(rank_in_reason)
    WHERE rank_in_reason <= len(nearest)
    QUALIFY example_rank <= 10
)
SELECT
    shown.* EXCLUDE (url, date, source),
    example_rank,
    text_before(documents.text, char_offset) AS text_before,
    call_text(tool, argument, result, outcome, reason) AS call,
    text_after(documents.text, char_offset) AS text_after,
    shown.url,
    shown.date,
    shown.source
FROM candidates AS shown
JOIN ranked USING (tool, candidate_id)
JOIN tools USING (tool)
LEFT JOIN documents USING (document_id)
ORDER BY tool_order, example_rank;
COMMENT ON TABLE nearest_dropped IS 'The rows of dropped_examples';

CREATE VIEW dropped_examples AS FROM nearest_dropped;
COMMENT ON VIEW dropped_examples IS
'Ten dropped calls per tool, spread over the reasons, with 160 characters before and 120 after';

-- How the tools behaved: outcomes and latencies of all calls that were executed.
CREATE VIEW tool_health AS
SELECT
    tool,
    count(candidate_id) AS calls,
    count(*) FILTER (outcome = 'ok') / nullif(count(candidate_id), 0) AS share_ok,
    count(*) FILTER (outcome = 'ok') AS ok,
    count(*) FILTER (outcome = 'rejected') AS rejected,
    count(*) FILTER (outcome = 'failed') AS failed,
    count(*) FILTER (outcome = 'timed_out') AS timed_out,
    count(*) FILTER (outcome = 'empty') AS empty,
    median(latency_seconds) AS median_latency_seconds,
    quantile_cont(latency_seconds, 0.95) AS p95_latency_seconds
FROM tools
LEFT JOIN executed_calls USING (tool)
GROUP BY tool, tool_order
ORDER BY tool_order;
COMMENT ON VIEW tool_health IS
'Per tool: calls executed, share and number by outcome, median and 95th percentile latency';

-- What a benchmark measures: only perplexity weighs its items, only call_rate has no gold answers.
CREATE MACRO benchmark_kinds() AS TABLE
SELECT
    benchmark,
    CASE WHEN max(weight) > 1 THEN 'perplexity'
        WHEN max(len(gold)) = 0 THEN 'call_rate' ELSE 'answer' END AS kind
FROM evaluated_items GROUP BY benchmark;

-- Arms as the paper's tables list them: the base model first, the tools last.
CREATE MACRO arm_order(arm) AS
    list_position(['base', 'base_c', 'disabled', 'on', 'wrong', 'few_shot'], arm);

-- The calls of an item as text, and how those ended that gave no result.
CREATE MACRO calls_text(calls) AS array_to_string([
    call_text(c.tool, c.argument, c.result, c.outcome, NULL)
        || CASE WHEN c.outcome = 'ok' THEN '' ELSE ' ' || c.outcome END
    FOR c IN calls
], ' ');

-- The figures of ArmScore that need no resampling.
CREATE VIEW evaluation AS
SELECT
    benchmark,
    arm,
    call_top_k,
    kind,
    CASE WHEN kind = 'perplexity' THEN exp(sum(score * weight) / sum(weight))
        ELSE avg(score) END AS value,
    count(*) AS n,
    count(*) FILTER (num_calls > 0) / count(*) AS call_rate,
    count(*) FILTER (num_malformed > 0) / count(*) AS malformed_rate,
    sum(num_calls) / count(*) AS calls_per_item,
    coalesce(sum(tool_seconds) / nullif(sum(num_calls), 0), 0) AS tool_seconds_per_call,
    sum(num_prompt_tokens + num_tokens) / count(*) AS tokens_per_item
FROM evaluated_items JOIN benchmark_kinds() USING (benchmark)
GROUP BY benchmark, arm, call_top_k, kind
ORDER BY benchmark, arm_order(arm);
COMMENT ON VIEW evaluation IS
'Per benchmark and arm: accuracy, perplexity or call rate, and what the calls cost';

-- Perplexity over tokens, words and bytes; the last two do not depend on the tokenizer. Words are
-- counted as lm-evaluation-harness does, by Python's re.split(r"\s+"); \s of RE2 is ASCII only.
CREATE VIEW perplexities AS
WITH sums AS (
    SELECT
        benchmark,
        arm,
        count(*) AS texts,
        sum(weight)::BIGINT AS tokens,
        sum(len(regexp_split_to_array(
            prompt,
            '[\s\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}'
                || '\x{205f}\x{3000}]+'
        )))::BIGINT AS words,
        sum(strlen(prompt))::BIGINT AS bytes,
        sum(score * weight) AS nats
    FROM evaluated_items JOIN benchmark_kinds() USING (benchmark)
    WHERE kind = 'perplexity'
    GROUP BY benchmark, arm
)
SELECT
    * EXCLUDE (nats),
    exp(nats / tokens) AS token_perplexity,
    exp(nats / words) AS word_perplexity,
    exp(nats / bytes) AS byte_perplexity
FROM sums
ORDER BY benchmark, arm_order(arm);
COMMENT ON VIEW perplexities IS
'Per benchmark of texts and arm: token, word and byte perplexity, and how many of each';

-- Answers, one row per item and arm.
CREATE VIEW answers AS
SELECT
    benchmark,
    arm,
    item_id,
    prompt,
    gold,
    answer,
    score = 1 AS is_right,
    num_calls,
    calls_text(calls) AS calls
FROM evaluated_items JOIN benchmark_kinds() USING (benchmark)
WHERE kind = 'answer'
ORDER BY benchmark, item_id, arm_order(arm);
COMMENT ON VIEW answers IS
'One row per item and arm: the answer without calls, whether it is right, the calls as text';

-- The same item with tools and without: what the tools gained and lost.
CREATE VIEW answer_pairs AS
SELECT
    benchmark,
    item_id,
    CASE
        WHEN tuned.is_right AND disabled.is_right THEN 'both'
        WHEN tuned.is_right THEN 'gained'
        WHEN disabled.is_right THEN 'lost'
        ELSE 'neither'
    END AS verdict,
    tuned.prompt,
    tuned.gold,
    tuned.calls,
    tuned.num_calls,
    tuned.answer AS answer_on,
    disabled.answer AS answer_disabled,
    base.answer AS answer_base,
    base.is_right AS base_is_right
FROM answers AS tuned
JOIN (SELECT * FROM answers WHERE arm = 'disabled') AS disabled USING (benchmark, item_id)
LEFT JOIN (SELECT * FROM answers WHERE arm = 'base') AS base USING (benchmark, item_id)
WHERE tuned.arm = 'on'
ORDER BY benchmark, verdict, item_id;
COMMENT ON VIEW answer_pairs IS
'One row per item of arms on and disabled: gained, lost, both or neither, with all answers';

-- Where the model calls (paper, Table 9), and how it does there without tools: a model that knows
-- what it does not know has the lower disabled_called.
CREATE VIEW call_split AS
WITH tuned AS (
    SELECT items.*, disabled.score AS disabled_score
    FROM evaluated_items AS items
    JOIN benchmark_kinds() USING (benchmark)
    LEFT JOIN (SELECT * FROM evaluated_items WHERE arm = 'disabled') AS disabled
        USING (benchmark, item_id)
    WHERE items.arm = 'on' AND kind = 'answer'
)
SELECT
    benchmark,
    call_top_k,
    count(*) AS n,
    avg(score) AS accuracy,
    count(*) FILTER (num_calls > 0) / count(*) AS call_rate,
    count(*) FILTER (num_calls > 0) AS n_called,
    avg(score) FILTER (num_calls > 0) AS accuracy_called,
    avg(disabled_score) FILTER (num_calls > 0) AS disabled_called,
    count(*) FILTER (num_calls = 0) AS n_not_called,
    avg(score) FILTER (num_calls = 0) AS accuracy_not_called,
    avg(disabled_score) FILTER (num_calls = 0) AS disabled_not_called
FROM tuned
GROUP BY benchmark, call_top_k
ORDER BY benchmark;
COMMENT ON VIEW call_split IS
'Per benchmark, arm on: accuracy where a call was made and where not, and that of arm disabled there';
