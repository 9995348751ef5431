-- Views of the index of a sweep. Run once by tasks/index.py, after its tables are loaded:
-- cells, cell_counts, scores, cell_shards, and evaluated_items, in which an item that several
-- cells share stands once.
COMMENT ON TABLE cells IS
'One row per cell: what varies, what came of it, and why it has no scores';
COMMENT ON TABLE cell_counts IS
'Per cell and tool: tau_f, calls kept, those that the text can judge, and the right ones';
COMMENT ON TABLE scores IS
'Per cell, benchmark and arm: the figures of the evaluation table';

CREATE VIEW items AS
SELECT cell, evaluated_items.* EXCLUDE (shard)
FROM cell_shards JOIN evaluated_items USING (shard);
COMMENT ON VIEW items IS 'Every answered item of every cell; cells that share an answer each have it';

-- Where the model calls (paper, Table 9), and how it does there without tools: a model that knows
-- what it does not know has the lower disabled_called. Columns as in call_split of a run's index.
CREATE VIEW call_split AS
WITH tuned AS (
    SELECT items.*, disabled.score AS disabled_score
    FROM items
    LEFT JOIN items AS disabled
        ON disabled.cell = items.cell AND disabled.benchmark = items.benchmark
        AND disabled.item_id = items.item_id AND disabled.arm = 'disabled'
    WHERE items.arm = 'on' AND len(items.gold) > 0
)
SELECT
    cell,
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
GROUP BY cell, benchmark, call_top_k
ORDER BY benchmark, cell;
COMMENT ON VIEW call_split IS
'Per cell and benchmark, arm on: accuracy where a call was made and where not, and that of arm disabled there';
