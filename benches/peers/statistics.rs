//! Medians of figures, and of ratios and differences within a round.

/// The median; NaN without figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[middle],
        _ => (figures[middle - 1] + figures[middle]) / 2.0,
    }
}

/// The median of the ratios of two series by round; `–` without a pair.
pub(crate) fn ratio(of: &[f64], to: &[f64]) -> String {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    if ratios.is_empty() { "–".to_owned() } else { format!("{:.2}", median(ratios)) }
}

/// The median of the differences of two series by round; `–` without a pair.
pub(crate) fn difference(of: &[f64], to: &[f64]) -> String {
    let differences: Vec<f64> = of.iter().zip(to).map(|(of, to)| of - to).collect();
    if differences.is_empty() { "–".to_owned() } else { format!("{:+.1}", median(differences)) }
}
