"""What the studies share: arms, a runner that resumes, results as JSON, tables and plots."""
