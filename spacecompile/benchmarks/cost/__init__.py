"""What a network costs: the budgets, and each stage's and graph's multiply-adds, parameters and bytes."""
