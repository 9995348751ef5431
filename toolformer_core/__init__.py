"""The Toolformer method (Schick et al. 2023) as plain functions, free of any orchestrator."""
