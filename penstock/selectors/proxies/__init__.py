"""Small models that say what a selection is worth: each learns from one selection and is measured on a target."""
