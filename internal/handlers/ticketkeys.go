package handlers

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/keys"
)

// maxKeysBody is more than 64 keys need in any body: JSON takes about 200
// bytes a key, white space aside.
const maxKeysBody = 64 << 10

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
		a.fail(w, r, invalidRequest("format: must be %s", keys.ATS))
		return
	}
	if _, err := negotiate(r, mediaBytes); err != nil {
		a.fail(w, r, err)
		return
	}
	set, description := a.cfg.Ring.Snapshot()
	defer set.Wipe()
	if setGeneration(w, description.Generation); isCurrent(ifNoneMatch, description.Generation) {
		w.WriteHeader(http.StatusNotModified)
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
	if _, err := negotiate(r, mediaJSON); err != nil {
		a.fail(w, r, err)
		return
	}
	description := a.cfg.Ring.Description()
	if isCurrent(ifNoneMatch, description.Generation) {
		setGeneration(w, description.Generation)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeDescription(w, description)
}

// generationETag is the ETag of everything that is said about a generation.
func generationETag(generation uint64) string {
	return `"` + strconv.FormatUint(generation, 10) + `"`
}

// isCurrent reports whether the client has the generation already.
func isCurrent(ifNoneMatch *etagList, generation uint64) bool {
	return ifNoneMatch != nil && ifNoneMatch.matches(generationETag(generation), weak)
}

// setGeneration sets the headers of every answer about the set.
func setGeneration(w http.ResponseWriter, generation uint64) {
	noStore(w)
	w.Header().Set("ETag", generationETag(generation))
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
			a.fail(w, r, invalidRequest("format: must be %s", keys.ATS))
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
		description, err = a.cfg.Ring.Load(format, body, update)
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
	defer wipeUpload(&request)
	err := decodeJSON(body, &request)
	if member, ok := errors.AsType[notBase64](err); ok {
		return keys.Description{}, invalidKey(fieldName(member.pointer), "is not base64")
	}
	if err != nil {
		return keys.Description{}, err
	}
	if request.Keys == nil {
		return keys.Description{}, invalidRequest("keys: is required")
	}
	set := keys.Set{Keys: make([]keys.Key, len(request.Keys))}
	defer set.Wipe()
	for i, material := range request.Keys {
		if set.Keys[i], err = makeKey(material); err != nil {
			return keys.Description{}, invalidKey(fmt.Sprintf("keys[%d].name", i), "is not hex")
		}
	}
	if request.Next != nil {
		next, err := makeKey(*request.Next)
		if err != nil {
			return keys.Description{}, invalidKey("next.name", "is not hex")
		}
		set.Next = &next
	}
	return a.cfg.Ring.Replace(set, update)
}

func invalidKey(field, reason string) *problem {
	return &problem{
		code:   api.ProblemCodeInvalidTicketKeys,
		fields: []api.FieldError{{Field: field, Reason: reason}},
	}
}

// fieldName writes a JSON Pointer as the domain writes fields: keys[0].aes_key
// for /keys/0/aes_key.
func fieldName(pointer string) string {
	var b strings.Builder
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		switch {
		case token != "" && isDigits(token):
			b.WriteString("[" + token + "]")
		case b.Len() > 0:
			b.WriteString("." + token)
		default:
			b.WriteString(token)
		}
	}
	return b.String()
}

// makeKey makes a key of what stands in JSON. The error is that the name is no
// hex; lengths are for the ring to judge.
func makeKey(material api.TicketKeyMaterial) (keys.Key, error) {
	name, err := hex.DecodeString(material.Name)
	if err != nil {
		return keys.Key{}, err
	}
	return keys.NewKey(name, material.HMACSecret, material.AESKey), nil
}

// wipeUpload wipes the secrets of a body.
func wipeUpload(u *api.TicketKeyUpload) {
	for _, material := range u.Keys {
		clear(material.HMACSecret)
		clear(material.AESKey)
	}
	if u.Next != nil {
		clear(u.Next.HMACSecret)
		clear(u.Next.AESKey)
	}
}

// RotateTicketKeys implements [api.ServerInterface].
func (a *API) RotateTicketKeys(w http.ResponseWriter, r *http.Request, params api.RotateTicketKeysParams) {
	condition, err := generationCondition(params.IfMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	description, err := a.cfg.Ring.Rotate(condition)
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
	description, err := a.cfg.Ring.Revoke(name, condition)
	a.answerUpdate(w, r, description, err)
}

// generationCondition is the condition that If-Match sets; nil without one.
func generationCondition(ifMatch *string) (keys.Condition, error) {
	list, err := parseETags("If-Match", ifMatch)
	if err != nil || list == nil {
		return nil, err
	}
	return func(generation uint64) bool {
		return list.matches(generationETag(generation), strong)
	}, nil
}

// answerUpdate answers with the set that is active after an update, or with why
// there was none.
func (a *API) answerUpdate(w http.ResponseWriter, r *http.Request, d keys.Description, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeDescription(w, d)
}

func writeDescription(w http.ResponseWriter, d keys.Description) {
	setGeneration(w, d.Generation)
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
