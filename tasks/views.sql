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

-- One row per sampled call, joined through all stages. A call that its stage has not decided yet
-- (an interrupted run) is not kept, with the reason "undecided": the funnel still adds up.
-- loss_reduction is null where the call could not be kept at any threshold of the run and one of
-- its losses was not measured; loss_reduction_at_most then bounds it.
CREATE VIEW candidates AS
SELECT
    proposed.candidate_id,
    proposed.document_id,
    proposed.tool,
    proposed.char_offset,
    proposed.window_start,
    proposed.window_end,
    proposed.start_probability,
    proposed.sample_index,
    proposed.argument,
    executed.outcome,
    executed.outcome_reason,
    executed.result,
    coalesce(scored.loss_without_call, proposed.loss_without_call) AS loss_without_call,
    scored.loss_with_empty_result,
    scored.loss_with_result,
    scored.loss_with_wrong_result,
    scored.loss_with_shuffled_result,
    CASE WHEN scored.loss_with_empty_result IS NOT NULL THEN scored.loss_reduction END
        AS loss_reduction,
    scored.loss_reduction AS loss_reduction_at_most,
    scored.scored_tokens,
    proposed.token_losses_without_call,
    scored.token_losses_with_empty_result,
    scored.token_losses_with_result,
    decision.filtering_threshold,
    coalesce(decision.kept, false) AS kept,
    CASE WHEN coalesce(decision.kept, false) THEN NULL ELSE coalesce(
        proposed.drop_reason, nullif(executed.outcome, 'ok'), decision.drop_reason, 'undecided'
    ) END AS reason,
    coalesce(decision.is_right, scored.is_right) AS is_right,
    executed.latency_seconds,
    documents.url,
    documents.date,
    documents.source
FROM proposed_calls AS proposed
LEFT JOIN executed_calls AS executed USING (candidate_id)
LEFT JOIN scored_calls AS scored USING (candidate_id)
LEFT JOIN filter_decisions AS decision USING (candidate_id)
LEFT JOIN documents ON documents.document_id = proposed.document_id;
COMMENT ON VIEW candidates IS
'One row per sampled call: outcome, losses in nats, verdict, and why it was dropped';

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
        count(*) AS calls,
        count(*) FILTER (reason IS NULL OR reason NOT IN ('not_closed', 'malformed')) AS parsed,
        count(*) FILTER (outcome = 'ok') AS executed,
        count(*) FILTER (loss_reduction_at_most IS NOT NULL) AS scored,
        count(*) FILTER (kept) AS kept,
        count(*) FILTER (kept AND is_right IS NOT NULL) AS checkable,
        count(*) FILTER (kept AND is_right) AS right_calls
    FROM candidates GROUP BY tool
)
SELECT
    tools.tool,
    coalesce(documents, 0)::BIGINT AS documents,
    coalesce(positions, 0)::BIGINT AS positions,
    coalesce(calls, 0) AS calls,
    coalesce(parsed, 0) AS parsed,
    coalesce(executed, 0) AS executed,
    coalesce(scored, 0) AS scored,
    coalesce(kept, 0) AS kept,
    coalesce(checkable, 0) AS checkable,
    coalesce(right_calls, 0) AS right_calls
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
SELECT tool, reason, count(*) AS n
FROM candidates WHERE NOT kept
GROUP BY tool, reason
ORDER BY tool, n DESC, reason;
COMMENT ON VIEW drops IS 'Dropped calls per tool and reason';

-- Yield at every threshold, from the stored losses. Each call is put once at the highest
-- threshold that it reaches, then the bins are summed from above: no join of calls by thresholds.
-- Left out at every threshold: calls that do not beat their control.
CREATE VIEW threshold_sweep AS
WITH finite AS (
    SELECT tool, loss_reduction, is_right
    FROM candidates
    WHERE isfinite(loss_reduction) AND reason IS DISTINCT FROM 'not_finite'
        AND beats(loss_with_result, loss_with_wrong_result)
        AND beats(loss_with_result, loss_with_shuffled_result)
),
bins AS (
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
    GROUP BY finite.tool, thresholds.filtering_threshold
)
SELECT
    tool,
    filtering_threshold,
    (sum(coalesce(n, 0)) OVER from_above)::BIGINT AS kept,
    (sum(coalesce(n_checkable, 0)) OVER from_above)::BIGINT AS checkable,
    (sum(coalesce(n_right, 0)) OVER from_above)::BIGINT AS right_calls,
    is_in_force
FROM thresholds
JOIN tools USING (tool)
LEFT JOIN bins USING (tool, filtering_threshold)
WINDOW from_above AS (PARTITION BY tool ORDER BY filtering_threshold DESC)
ORDER BY tool_order, filtering_threshold;
COMMENT ON VIEW threshold_sweep IS
'Per tool and filtering threshold (nats): calls that would be kept, checkable ones, right ones';

-- Ten kept calls per tool, largest loss_reduction first, with the text around them.
CREATE VIEW kept_examples AS
WITH ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY tool ORDER BY loss_reduction DESC, candidate_id
    ) AS example_rank
    FROM candidates WHERE kept
    QUALIFY example_rank <= 10
)
SELECT
    ranked.* EXCLUDE (url, date, source),
    text_before(documents.text, char_offset) AS text_before,
    call_text(tool, argument, result, outcome, reason) AS call,
    text_after(documents.text, char_offset) AS text_after,
    ranked.url,
    ranked.date,
    ranked.source
FROM ranked
JOIN tools USING (tool)
LEFT JOIN documents USING (document_id)
ORDER BY tool_order, example_rank;
COMMENT ON VIEW kept_examples IS
'Ten kept calls per tool, best loss_reduction first, with 160 characters before and 120 after';

-- Ten dropped calls per tool, taken from the reasons in turn (most frequent reason first);
-- within a reason the nearest miss comes first, or, without losses, the likeliest position.
CREATE VIEW dropped_examples AS
WITH by_reason AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY tool, reason) AS n_of_reason,
        row_number() OVER (
            PARTITION BY tool, reason
            ORDER BY
                CASE WHEN isfinite(loss_reduction) THEN loss_reduction END DESC NULLS LAST,
                start_probability DESC,
                candidate_id
        ) AS rank_in_reason
    FROM candidates WHERE NOT kept
    QUALIFY rank_in_reason <= 10
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY tool ORDER BY rank_in_reason, n_of_reason DESC, reason
    ) AS example_rank
    FROM by_reason
    QUALIFY example_rank <= 10
)
SELECT
    ranked.* EXCLUDE (url, date, source, n_of_reason, rank_in_reason),
    text_before(documents.text, char_offset) AS text_before,
    call_text(tool, argument, result, outcome, reason) AS call,
    text_after(documents.text, char_offset) AS text_after,
    ranked.url,
    ranked.date,
    ranked.source
FROM ranked
JOIN tools USING (tool)
LEFT JOIN documents USING (document_id)
ORDER BY tool_order, example_rank;
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
