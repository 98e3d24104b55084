// Package api is generated from openapi.yaml: the models, and the router's
// binding of parameters. Nothing here is written by hand but this file.
package api

//go:generate go tool -modfile=../../tools/oapi-codegen/go.mod oapi-codegen -config oapi-codegen.yaml ../../openapi.yaml
