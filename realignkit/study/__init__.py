"""People's judgement: studies in which they rank pictures of several systems, blinded, and what comes of them."""
