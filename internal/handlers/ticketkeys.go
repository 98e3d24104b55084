package handlers

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/keys"
)

// maxKeysBody is more than 64 keys need in any body: JSON takes about 200
// bytes a key, white space aside.
const maxKeysBody = 64 << 10

var bytesOnly = newRepresentations(mediaBytes)

// GetTicketKeys implements [api.ServerInterface].
func (a *API) GetTicketKeys(w http.ResponseWriter, r *http.Request, params api.GetTicketKeysParams) {
	ifNoneMatch, err := parseETags("If-None-Match", params.IfNoneMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if params.Format == nil {
		a.serveDescription(w, r, ifNoneMatch)
		return
	}
	format, err := keys.ParseFormat(string(*params.Format))
	if err != nil {
		a.fail(w, r, invalidRequest("format: is not one of those listed"))
		return
	}
	if _, err := bytesOnly.negotiate(r); err != nil {
		a.fail(w, r, err)
		return
	}
	set, description := a.Ring.Snapshot()
	defer set.Wipe()
	if notModified(w, ifNoneMatch, description.Generation) {
		return
	}
	encoded := format.Append(nil, set)
	defer clear(encoded)
	h := w.Header()
	h.Set("Content-Type", mediaBytes)
	h.Set("Content-Length", strconv.Itoa(len(encoded)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(encoded) // a client that went away is no error of ours
}

func (a *API) serveDescription(w http.ResponseWriter, r *http.Request, ifNoneMatch *etagList) {
	if _, err := jsonOnly.negotiate(r); err != nil {
		a.fail(w, r, err)
		return
	}
	description := a.Ring.Description()
	if !notModified(w, ifNoneMatch, description.Generation) {
		writeDescription(w, description)
	}
}

// notModified sets the headers that every answer about the set has, and answers
// with 304 when the client has this generation.
func notModified(w http.ResponseWriter, ifNoneMatch *etagList, generation uint64) bool {
	noStore(w)
	tag := strconv.FormatUint(generation, 10)
	w.Header().Set("ETag", `"`+tag+`"`)
	if ifNoneMatch == nil || !ifNoneMatch.matchesWeak(tag) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// ReplaceTicketKeys implements [api.ServerInterface].
func (a *API) ReplaceTicketKeys(w http.ResponseWriter, r *http.Request, params api.ReplaceTicketKeysParams) {
	mediaType, err := bodyType(r, mediaBytes, mediaJSON)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	condition, err := generationCondition(params.IfMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	format := keys.ATS
	if params.Format != nil {
		if format, err = keys.ParseFormat(string(*params.Format)); err != nil {
			a.fail(w, r, invalidRequest("format: is not one of those listed"))
			return
		}
	}
	body, err := readBody(make([]byte, 0, maxKeysBody+1), w, r, maxKeysBody, errTooManyKeys)
	defer func() { clear(body) }()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	update := keys.Update{Source: keys.SourceAPI, If: condition}
	var description keys.Description
	if mediaType == mediaJSON {
		description, err = a.replaceWithJSON(body, update)
	} else {
		description, err = a.Ring.Load(format, body, update)
	}
	a.answerUpdate(w, r, description, err)
}

var errTooManyKeys = &problem{
	code:   api.ProblemCodeInvalidTicketKeys,
	fields: []api.FieldError{{Field: "keys", Reason: fmt.Sprintf("the body is larger than %d keys need", keys.MaxKeys)}},
}

// replaceWithJSON replaces the set by that of a JSON body.
func (a *API) replaceWithJSON(body []byte, update keys.Update) (keys.Description, error) {
	var request api.TicketKeyUpload
	if err := decodeJSON(body, &request); err != nil {
		return keys.Description{}, err
	}
	if request.Keys == nil {
		return keys.Description{}, invalidRequest("keys: is required")
	}
	var bad problem
	set := keys.Set{Keys: make([]keys.Key, len(request.Keys))}
	defer set.Wipe()
	for i, material := range request.Keys {
		set.Keys[i] = bad.key(fmt.Sprintf("keys[%d]", i), material)
	}
	if request.Next != nil {
		next := bad.key("next", *request.Next)
		set.Next = &next
	}
	if bad.fields != nil {
		bad.code = api.ProblemCodeInvalidTicketKeys
		return keys.Description{}, &bad
	}
	return a.Ring.Replace(set, update)
}

// key makes a key of what stands in JSON at field. What is no hex or base64 is
// added to the problem; lengths are for the ring to judge.
func (p *problem) key(field string, material api.TicketKeyMaterial) keys.Key {
	name, err := hex.DecodeString(material.Name)
	if err != nil {
		p.fields = append(p.fields, api.FieldError{Field: field + ".name", Reason: "is not hex"})
	}
	hmacSecret, err := base64.StdEncoding.DecodeString(material.HMACSecret)
	if err != nil {
		p.fields = append(p.fields, api.FieldError{Field: field + ".hmac_secret", Reason: "is not base64"})
	}
	aesKey, err := base64.StdEncoding.DecodeString(material.AESKey)
	if err != nil {
		p.fields = append(p.fields, api.FieldError{Field: field + ".aes_key", Reason: "is not base64"})
	}
	defer clear(hmacSecret)
	defer clear(aesKey)
	return keys.NewKey(name, hmacSecret, aesKey)
}

// RotateTicketKeys implements [api.ServerInterface].
func (a *API) RotateTicketKeys(w http.ResponseWriter, r *http.Request, params api.RotateTicketKeysParams) {
	condition, err := generationCondition(params.IfMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	description, err := a.Ring.Rotate(condition)
	a.answerUpdate(w, r, description, err)
}

// RevokeTicketKey implements [api.ServerInterface].
func (a *API) RevokeTicketKey(w http.ResponseWriter, r *http.Request, rawName string, params api.RevokeTicketKeyParams) {
	name, err := keys.ParseName(rawName)
	if err != nil {
		a.fail(w, r, invalidRequest("name: must be 32 hex digits"))
		return
	}
	condition, err := generationCondition(params.IfMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	description, err := a.Ring.Revoke(name, condition)
	a.answerUpdate(w, r, description, err)
}

// generationCondition is the condition that If-Match sets; nil without one.
func generationCondition(ifMatch *string) (keys.Condition, error) {
	list, err := parseETags("If-Match", ifMatch)
	if err != nil || list == nil {
		return nil, err
	}
	return func(generation uint64) bool {
		return list.matchesStrong(strconv.FormatUint(generation, 10))
	}, nil
}

// answerUpdate answers with the set that is active after an update, or with why
// there was none.
func (a *API) answerUpdate(w http.ResponseWriter, r *http.Request, d keys.Description, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	notModified(w, nil, d.Generation)
	writeDescription(w, d)
}

func writeDescription(w http.ResponseWriter, d keys.Description) {
	writeJSON(w, http.StatusOK, describeKeys(d))
}

func describeKeys(d keys.Description) api.TicketKeys {
	out := api.TicketKeys{
		Generation: d.Generation,
		UpdatedAt:  d.UpdatedAt.UTC(),
		Source:     api.TicketKeySource(d.Source),
		Keys:       make([]api.TicketKey, len(d.Keys)),
	}
	for i, k := range d.Keys {
		out.Keys[i] = api.TicketKey{
			Name: k.Name.String(), Role: api.TicketKeyRole(k.Role), Bits: api.TicketKeyBits(k.Bits),
			Fingerprint: k.Fingerprint, CreatedAt: k.CreatedAt.UTC(),
		}
		if !k.ActivatedAt.IsZero() {
			out.Keys[i].ActivatedAt = new(k.ActivatedAt.UTC())
		}
	}
	return out
}
