//! Whether an alert fires: an instant query to a Prometheus, which fires while it gives anything but nothing.

use serde::Deserialize;

use super::http::{Target, get};
use super::short;
use crate::api::Duration;

#[derive(Deserialize)]
struct Said {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: serde_json::Value,
}

/// What a query gives, in words; `None`: nothing, it does not fire.
///
/// # Errors
/// There is no answer that says so.
pub async fn firing(prometheus: &str, query: &str, timeout: Duration) -> Result<Option<String>, String> {
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
    let target = Target::new(&format!("{}/api/v1/query?{query}", prometheus.trim_end_matches('/')))?;
    read(&get(&target, timeout).await?)
}

fn read(body: &[u8]) -> Result<Option<String>, String> {
    let said: Said = serde_json::from_slice(body).map_err(|error| format!("not the answer of a Prometheus: {error}"))?;
    let data = match said {
        Said { data: Some(data), error: None } => data,
        Said { data: _, error } => return Err(short(&error.unwrap_or_else(|| "the answer has no data".to_owned()))),
    };
    let series = match (data.result_type.as_str(), &data.result) {
        ("vector", serde_json::Value::Array(series)) => series,
        (other, _) => return Err(format!("the query gives a {}, and only a vector can fire", short(other))),
    };
    let first = series.first().map(|first| short(&first["metric"].to_string()));
    Ok(first.map(|first| match series.len() {
        1 => first,
        many => format!("{first} and {} more", many - 1),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_prometheus_says() {
        let vector = |result: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#);
        let series = r#"{"metric":{"alertname":"Burning"},"value":[1,"1"]}"#;
        let table = [
            (vector("[]"), Ok(None)),
            (vector(&format!("[{series}]")), Ok(Some(r#"{"alertname":"Burning"}"#))),
            (vector(&format!("[{series},{series}]")), Ok(Some(r#"{"alertname":"Burning"} and 1 more"#))),
            (
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#.to_owned(),
                Err("the query gives a scalar, and only a vector can fire"),
            ),
            (r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#.to_owned(), Err("parse error")),
            ("ok".to_owned(), Err("not the answer of a Prometheus: expected value at line 1 column 1")),
        ];
        for (body, expected) in table {
            let expected = expected.map(|said| said.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(read(body.as_bytes()), expected, "{body}");
        }
    }
}
