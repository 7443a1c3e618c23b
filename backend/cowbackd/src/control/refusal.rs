//! How the control API says no.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// A refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
}

/// The body of a refusal.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = Refusal)]
pub(super) struct RefusalBody {
    /// Why, in a sentence that names what it is about.
    error: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: &impl ToString) -> Self {
        Self {
            status,
            error: error.to_string(),
        }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), &rejection.body_text())
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), &rejection.body_text())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, error } = self;
        (status, Json(RefusalBody { error })).into_response()
    }
}

/// What the description says of refusals.
impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        [
            (StatusCode::BAD_REQUEST, "It is not understood"),
            (StatusCode::FORBIDDEN, "Not for this user"),
            (StatusCode::NOT_FOUND, "There is no such thing"),
            (StatusCode::CONFLICT, "Not possible as things are"),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON"),
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                "The body is not as described",
            ),
            (StatusCode::SERVICE_UNAVAILABLE, "The daemon is ending"),
        ]
        .map(|(status, description)| {
            let schema = Ref::from_schema_name("Refusal");
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let response = ResponseBuilder::new()
                .description(description)
                .content("application/json", content)
                .build();
            (status.as_str().to_owned(), response.into())
        })
        .into()
    }
}

/// A body in JSON. What is wrong with it is refused as everything else is.
pub(super) struct Body<T>(pub(super) T);

impl<S, T> FromRequest<S> for Body<T>
where
    S: Send + Sync,
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Json(body) = Json::from_request(request, state).await?;
        Ok(Self(body))
    }
}
