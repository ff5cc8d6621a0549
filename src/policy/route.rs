//! A route's pattern and its precedence.
