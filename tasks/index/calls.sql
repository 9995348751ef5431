-- All stages of some calls, joined: one row per sampled call. tasks/index.py puts shards of each
-- stage in the place of its name in braces, one range of them after another, so that no join is
-- larger than that.
SELECT
    proposed.*,
    executed.tool_version,
    executed.outcome,
    executed.outcome_reason,
    executed.result,
    executed.latency_seconds,
    scored.loss_with_empty_result,
    scored.loss_with_result,
    scored.loss_with_wrong_result,
    scored.loss_with_shuffled_result,
    scored.loss_reduction,
    scored.scored_tokens,
    scored.token_losses_with_empty_result,
    scored.token_losses_with_result,
    coalesce(decision.is_right, scored.is_right) AS is_right,
    decision.filtering_threshold,
    decision.kept,
    decision.drop_reason AS filter_reason,
    documents.url,
    documents.date,
    documents.source
FROM {sample} AS proposed
LEFT JOIN {execute} AS executed USING (candidate_id)
LEFT JOIN {score} AS scored USING (candidate_id)
LEFT JOIN {filter} AS decision USING (candidate_id)
LEFT JOIN documents ON documents.document_id = proposed.document_id
