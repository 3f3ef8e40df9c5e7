pub fn parse_cron(_text: &str) -> Result<(), String> {
    Ok(())
}
pub fn parse_zone(_text: &str) -> Result<(), String> {
    Ok(())
}
