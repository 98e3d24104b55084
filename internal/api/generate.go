// Package api is generated from openapi.yaml: the models, the router's binding
// of parameters, and the requests of package client. Nothing here is written by
// hand but this file.
package api

//go:generate go tool -modfile=../../tools/oapi-codegen/go.mod oapi-codegen -config oapi-codegen.yaml ../../openapi.yaml
//go:generate go tool -modfile=../../tools/oapi-codegen/go.mod oapi-codegen -config client.yaml ../../openapi.yaml
