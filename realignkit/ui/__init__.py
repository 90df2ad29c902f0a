"""The method to see and to steer: a page on which a person changes what the steps have found, and draws again."""
