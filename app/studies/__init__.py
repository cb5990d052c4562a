"""Human evaluation: studies, people, assignment, judgments and what is computed from them. Knows no page."""
