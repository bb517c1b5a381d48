"""The OpenAPI document of the server. The routes of `sspsam.serving.app` are those of `OPERATIONS`."""

from dataclasses import dataclass
from typing import Any, Final

from sspsam._version import __version__
from sspsam.segmentation.result import DICT_VERSION
from sspsam.serving.options import ServeOptions

Schema = dict[str, Any]
_NUMBER: Final[Schema] = {"type": "number"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_TEXT: Final[Schema] = {"type": "string"}


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Args:
        name: of the method that answers.
        method: of HTTP.
        path: template.
        summary: one sentence.
        statuses: of errors.
    """

    name: str
    method: str
    path: str
    summary: str
    statuses: tuple[int, ...] = ()


_BODY: Final = (400, 408, 413, 415, 422, 503)
OPERATIONS: Final = (
    Operation("segment", "POST", "/v1/segment", "Segment the targets of expressions in an image.", (*_BODY, 406)),
    Operation("add_image", "POST", "/v1/images", "Encode an image, to ask about it several times.", _BODY),
    Operation(
        "segment_image",
        "POST",
        "/v1/images/{image_id}/segment",
        "Segment the targets of expressions in an image that was posted before.",
        (*_BODY, 404, 406),
    ),
    Operation("remove_image", "DELETE", "/v1/images/{image_id}", "Remove an image.", (404,)),
    Operation("model", "GET", "/v1/model", "Describe the model and the limits of the server.", (503,)),
    Operation("healthz", "GET", "/healthz", "Tell whether the process works; it should be restarted if not.", (503,)),
    Operation("readyz", "GET", "/readyz", "Tell whether the server takes requests.", (503,)),
    Operation("metrics", "GET", "/metrics", "Metrics for Prometheus."),
    Operation("docs", "GET", "/docs", "This description as a page."),
)
_STATUS_TEXTS: Final = {
    400: "The body is malformed.",
    401: "The token is missing or wrong.",
    404: "There is no such image, or no longer.",
    406: "No form of the answer is accepted, or only PNG for several expressions.",
    408: "The body did not arrive in time.",
    413: "The body or the image is too large.",
    415: "The body is of another type, or compressed.",
    422: "An entry, an expression, an option or the image cannot be used.",
    503: "The server is starting, stopping or busy, or the request waited for too long. See Retry-After.",
}
_OPEN: Final = ("healthz", "readyz")


def document(options: ServeOptions) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these options."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, options)
    components: dict[str, Any] = {"schemas": _schemas(options)}
    if options.token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    content = {
        "openapi": "3.1.0",
        "info": {"title": "sspsam", "version": __version__, "description": "Referring expression segmentation."},
        "paths": paths,
        "components": components,
    }
    return content | ({"servers": [{"url": options.root_path}]} if options.root_path else {})


def _operation(operation: Operation, options: ServeOptions) -> dict[str, Any]:
    needs_token = options.token is not None and operation.name not in _OPEN
    statuses = (*operation.statuses, 401) if needs_token else operation.statuses
    responses = {str(status): _content(_STATUS_TEXTS[status], _reference("Error")) for status in sorted(statuses)}
    content: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {**_success(operation.name), **responses},
    }
    if "{image_id}" in operation.path:
        content["parameters"] = [{"name": "image_id", "in": "path", "required": True, "schema": _TEXT}]
    if operation.method == "POST":
        content["requestBody"] = _request_body(operation.name)
    if needs_token:
        content["security"] = [{"token": []}]
    return content


def _success(name: str) -> dict[str, Any]:
    if name in ("segment", "segment_image"):
        answer = _content("An answer for each expression, in order.", _reference("Answers"))
        answer["content"]["image/png"] = {"schema": {}}
        return {"200": answer}
    if name == "add_image":
        return {"201": _content("The image is encoded.", _reference("Image"))}
    if name == "remove_image":
        return {"204": {"description": "The image is removed."}}
    if name == "metrics":
        return {"200": _content("Metrics.", _TEXT, "text/plain")}
    if name == "docs":
        return {"200": _content("A page.", _TEXT, "text/html")}
    return {"200": _content("As described.", _reference("Model" if name == "model" else "Status"))}


def _request_body(name: str) -> dict[str, Any]:
    fields = {"segment": ("image", "expressions", "options"), "add_image": ("image",)}
    names = fields.get(name, ("expressions", "options"))
    properties: Schema = {entry: _reference(entry.capitalize()) for entry in names if entry != "image"}
    required = [entry for entry in names if entry != "options"]
    base: Schema = {"type": "object", "required": required, "additionalProperties": False}
    form, text = dict(properties), dict(properties)
    if "image" in names:
        form["image"] = {"type": "string", "format": "binary", "description": "The image file."}
        text["image"] = {"type": "string", "contentEncoding": "base64", "description": "The image file in base64."}
    multipart: Schema = {"schema": {**base, "properties": form}}
    if "options" in names:
        multipart["encoding"] = {"options": {"contentType": "application/json"}}
    return {
        "required": True,
        "content": {"multipart/form-data": multipart, "application/json": {"schema": {**base, "properties": text}}},
    }


def _schemas(options: ServeOptions) -> dict[str, Schema]:
    return {
        "Expressions": {
            "type": "array",
            "minItems": 1,
            "maxItems": options.max_expressions,
            "items": {"type": "string", "minLength": 1, "maxLength": options.max_expression_characters},
        },
        "Options": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "mask_threshold": {
                    "type": ["number", "null"],
                    "exclusiveMinimum": 0,
                    "exclusiveMaximum": 1,
                    "description": "Probability from which a pixel is foreground; null: the model's.",
                },
                "no_target_pixels": {
                    "type": ["integer", "null"],
                    "minimum": 0,
                    "description": "Fewer foreground pixels mean no target; null: the model's.",
                },
                "explain": {"type": ["boolean", "null"], "description": "Whether to return maps and word weights."},
            },
        },
        "Answers": _object({"results": {"type": "array", "items": _reference("Segmentation")}, "fingerprint": _TEXT}),
        "Segmentation": _segmentation(),
        "Image": _object({"id": _TEXT, "width": _COUNT, "height": _COUNT, "expires_in": _NUMBER}),
        "Model": _object(
            {
                **dict.fromkeys(("version", "origin", "fingerprint", "device", "dtype"), _TEXT),
                "limits": {"type": "object", "additionalProperties": _NUMBER},
            }
        ),
        "Status": _object({"status": _TEXT}),
        "Error": _object({"error": _object({"type": _TEXT, "message": _TEXT})}),
    }


def _segmentation() -> Schema:
    """Return the schema of `Segmentation.to_dict`."""
    box: Schema = {"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4}
    size: Schema = {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}
    return _object(
        {
            "version": {"const": DICT_VERSION},
            "text": _TEXT,
            "no_target": {"type": "boolean", "description": "The expression refers to nothing in the image."},
            "foreground_pixels": _COUNT,
            "score": {"type": "number", "description": "Output of SAM's IoU head; no confidence."},
            "box": {**box, "description": "x0, y0, x1, y1 in pixels, from the box head."},
            "mask_box": {**box, "type": ["array", "null"], "description": "Tight box around the mask."},
            "height": _COUNT,
            "width": _COUNT,
            "mask": {**_object({"size": size, "counts": _TEXT}), "description": "COCO's compressed run-length code."},
            "explanation": {"type": ["object", "null"]},
            "text_truncated": {"type": ["string", "null"], "description": "Words that the model did not read."},
        }
    )


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(description: str, schema: Schema, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}
