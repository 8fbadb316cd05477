//! `/api/openapi.json`: what the API takes and gives, for programs. Anybody may read it.

use axum::{http::header::CONTENT_TYPE, response::IntoResponse};

use super::api::Route;

/// OpenAPI 3.1, written by hand.
const DOCUMENT: &str = include_str!("openapi.json");

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/api/openapi.json", show)]
}

async fn show() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{super::api, *};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_in_the_document_and_there_is_no_other() {
        let routes = api::routes().into_iter();
        let routes: BTreeSet<String> = routes
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        let document = document();
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let methods = methods.as_object().unwrap().keys();
            let methods = methods.filter(|method| *method != "parameters");
            described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        assert_eq!(described, routes);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_what_it_does() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} is there twice");
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(
                    operation["responses"]["200"].is_object()
                        || operation["responses"]["201"].is_object()
                );
            }
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn what_the_document_refers_to_is_in_it() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        found.push(to.clone());
                    }
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = vec![];
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for to in found {
            let place = to.strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "there is no {to}");
        }
    }
}
