"""From conversations to token counts: finds assistant responses, tokenizes and counts them at scale."""
