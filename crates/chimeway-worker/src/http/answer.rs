//! What a request that is done is answered: `{"data": ..}`, and for a page of a list `{"data": [..], "next"}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// 200 with something.
#[derive(Serialize)]
pub(super) struct Data<T> {
    pub(super) data: T,
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// 201 with what was made, and where it is.
pub(super) struct Created<T> {
    pub(super) data: T,
    pub(super) place: Option<String>,
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::CREATED, Data { data: self.data }).into_response();
        if let Some(place) = self
            .place
            .and_then(|place| HeaderValue::try_from(place).ok())
        {
            response.headers_mut().insert(LOCATION, place);
        }
        response
    }
}

/// 200 with a part of a list.
#[derive(Serialize)]
pub(super) struct Page<T> {
    data: Vec<T>,
    /// Given as `before` (as `after` where the oldest come first), it brings the next part; null at the end.
    next: Option<String>,
}

impl<T> Page<T> {
    /// What was found when at most `limit` were asked for.
    pub(super) fn of<I: ToString>(data: Vec<T>, limit: i64, id: impl FnOnce(&T) -> I) -> Self {
        let full = usize::try_from(limit).is_ok_and(|limit| data.len() >= limit);
        let next = data
            .last()
            .filter(|_| full)
            .map(|last| id(last).to_string());
        Self { data, next }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_names_its_last_and_a_short_one_ends() {
        let next = |items: Vec<i32>| Page::of(items, 2, |item| *item).next;
        assert_eq!(next(vec![5, 4]), Some("4".to_owned()));
        assert_eq!(next(vec![5]), None);
        assert_eq!(next(vec![]), None);
    }
}
