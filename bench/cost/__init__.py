"""What a draft costs: FLOPs by component; pure arithmetic."""
