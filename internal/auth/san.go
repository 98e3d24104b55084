package auth

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// rawURIs returns the URIs of the certificate's subject alternative names exactly as
// written. [x509.Certificate.URIs] are parsed, and formatting them normalizes them:
// SPIFFE://example.org/edge and spiffe://example.org/edge# would become
// spiffe://example.org/edge, which the CA did not certify.
func rawURIs(cert *x509.Certificate) (uris []string) {
	for _, extension := range cert.Extensions {
		if !slices.Equal(extension.Id, asn1.ObjectIdentifier{2, 5, 29, 17}) { // RFC 5280, section 4.2.1.6
			continue
		}
		value := cryptobyte.String(extension.Value)
		var names cryptobyte.String
		if !value.ReadASN1(&names, cryptobyteasn1.SEQUENCE) {
			return nil
		}
		for !names.Empty() {
			var name cryptobyte.String
			var tag cryptobyteasn1.Tag
			if !names.ReadAnyASN1(&name, &tag) {
				return nil
			}
			if tag == cryptobyteasn1.Tag(6).ContextSpecific() { // uniformResourceIdentifier
				uris = append(uris, string(name))
			}
		}
	}
	return uris
}
