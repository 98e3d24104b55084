package handlers

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/handlers/headers"
	"github.com/sessapi/sessapi/internal/keys"
)

// maxKeysBody is more than 64 keys need in any body: JSON takes about 200 bytes per
// key, white space aside.
const maxKeysBody = 64 << 10

// GetTicketKeys implements [api.ServerInterface].
func (a *API) GetTicketKeys(w http.ResponseWriter, r *http.Request, params api.GetTicketKeysParams) {
	has, err := generationHeld(params.IfNoneMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	wait, err := headers.PreferredWait(params.Prefer, maxWait)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if has == nil || r.ContentLength != 0 {
		wait = 0
	}
	if wait > 0 {
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
	}
	if params.Format == nil {
		err = a.describeTicketKeys(w, r, params, has, wait)
	} else {
		err = a.sendTicketKeys(w, r, params, has, wait)
	}
	if err != nil {
		a.fail(w, r, err)
	}
}

func (a *API) describeTicketKeys(w http.ResponseWriter, r *http.Request, params api.GetTicketKeysParams, has keys.Condition, wait time.Duration) error {
	if params.Key != nil {
		return invalidRequest("key: needs format")
	}
	if _, err := negotiate(r, mediaJSON); err != nil {
		return err
	}
	a.whenChanged(w, r, has, wait, permitKeyDescription, func(w http.ResponseWriter, _ *http.Request) {
		description := a.cfg.Ring.Description()
		if has != nil && has(description.Generation) {
			setGeneration(w, description.Generation)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		writeDescription(w, description)
	})
	return nil
}

func (a *API) sendTicketKeys(w http.ResponseWriter, r *http.Request, params api.GetTicketKeysParams, has keys.Condition, wait time.Duration) error {
	format, err := parseFormat(params.Format)
	if err != nil {
		return err
	}
	file := 0 // the file of the key that encrypts
	if params.Key != nil {
		switch file = *params.Key; {
		case !format.OneKey():
			return invalidRequest("key: %s has all keys in one file; leave out key", format)
		case file < 0 || file >= keys.MaxKeys:
			return invalidRequest("key: must be from 0 to %d", keys.MaxKeys-1)
		}
	}
	mediaType, err := negotiate(r, formatMediaType(format))
	if err != nil {
		return err
	}
	a.whenChanged(w, r, has, wait, permitKeySecrets, func(w http.ResponseWriter, r *http.Request) {
		set, description := a.cfg.Ring.Snapshot()
		defer set.Wipe()
		if has != nil && has(description.Generation) {
			setGeneration(w, description.Generation)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		var encoded []byte
		var err error
		if format.OneKey() {
			encoded, err = format.AppendKey(nil, set, file)
		} else {
			encoded = format.Append(nil, set)
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
		defer clear(encoded)
		if r.Method != http.MethodHead { // HEAD sends no keys
			if err := a.recordExport(w, r, format, description); err != nil {
				a.fail(w, r, err)
				return
			}
		}
		setGeneration(w, description.Generation)
		h := w.Header()
		h.Set("Content-Type", mediaType)
		h.Set("Content-Length", strconv.Itoa(len(encoded)))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(encoded) // fails only when the client is gone
	})
	return nil
}

// parseFormat reads the parameter. The default is the format of Traffic Server.
func parseFormat(param *api.TicketKeyFormat) (keys.Format, error) {
	if param == nil {
		return keys.ATS, nil
	}
	format, err := keys.ParseFormat(string(*param))
	if err != nil {
		names := make([]string, len(keys.Formats()))
		for i, f := range keys.Formats() {
			names[i] = f.String()
		}
		return 0, invalidRequest("format: must be one of %s", strings.Join(names, ", "))
	}
	return format, nil
}

// formatMediaType returns the media type of keys in the format.
func formatMediaType(format keys.Format) string {
	switch {
	case format == keys.H2O:
		return mediaYAML
	case format.Text():
		return mediaText
	}
	return mediaBytes
}

// generationETag returns the ETag of all responses about a generation.
func generationETag(generation uint64) string {
	return `"` + strconv.FormatUint(generation, 10) + `"`
}

// setGeneration sets the common headers of responses about the set.
func setGeneration(w http.ResponseWriter, generation uint64) {
	noStore(w)
	w.Header().Set("ETag", generationETag(generation))
}

// ReplaceTicketKeys implements [api.ServerInterface].
func (a *API) ReplaceTicketKeys(w http.ResponseWriter, r *http.Request, params api.ReplaceTicketKeysParams) {
	format, err := parseFormat(params.Format)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if !format.Readable() {
		a.fail(w, r, invalidRequest("format: %s cannot be sent: it holds only derived secrets", format))
		return
	}
	mediaType, err := bodyType(r, formatMediaType(format), mediaJSON)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	condition, err := generationCondition(params.IfMatch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	body, err := readBody(make([]byte, 0, keysBodySize(r)+1), w, r, maxKeysBody, errTooManyKeys)
	defer func() { clear(body) }()
	if err == nil {
		err = a.admit(w)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.update(w, r, keys.Update{Source: keys.SourceAPI, If: condition}, func(ctx context.Context, u keys.Update) (keys.Description, error) {
		if mediaType == mediaJSON {
			return a.replaceWithJSON(ctx, body, u)
		}
		return a.cfg.Ring.Load(ctx, format, body, u)
	})
}

// keysBodySize returns the room that the body needs, as far as the request says.
func keysBodySize(r *http.Request) int {
	if r.ContentLength < 0 || r.ContentLength > maxKeysBody {
		return maxKeysBody
	}
	return int(r.ContentLength)
}

var errTooManyKeys = &problem{
	code:   api.ProblemCodeInvalidTicketKeys,
	fields: []api.FieldError{{Field: "keys", Reason: fmt.Sprintf("has more bytes than %d keys, the limit", keys.MaxKeys)}},
}

// replaceWithJSON replaces the set with the one in a JSON body.
func (a *API) replaceWithJSON(ctx context.Context, body []byte, update keys.Update) (keys.Description, error) {
	var request api.TicketKeyUpload
	defer wipeUpload(&request)
	err := decodeJSON(body, &request)
	if member, ok := errors.AsType[notBase64](err); ok {
		return keys.Description{}, invalidKey(fieldName(member.pointer), member.Error())
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
	return a.cfg.Ring.Replace(ctx, set, update)
}

func invalidKey(field, reason string) *problem {
	return &problem{
		code:   api.ProblemCodeInvalidTicketKeys,
		fields: []api.FieldError{{Field: field, Reason: reason}},
	}
}

// fieldName converts a JSON Pointer to the domain's notation: /keys/0/aes_key to
// keys[0].aes_key.
func fieldName(pointer string) string {
	var b strings.Builder
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		switch {
		case token != "" && headers.IsDigits(token):
			b.WriteString("[" + token + "]")
		case b.Len() > 0:
			b.WriteString("." + token)
		default:
			b.WriteString(token)
		}
	}
	return b.String()
}

// makeKey makes a key from its JSON. It fails if the name is not hex. The ring checks
// the lengths.
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
	a.update(w, r, keys.Update{If: condition}, a.cfg.Ring.Rotate)
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
	a.update(w, r, keys.Update{If: condition}, func(ctx context.Context, u keys.Update) (keys.Description, error) {
		return a.cfg.Ring.Revoke(ctx, name, u)
	})
}

// generationHeld returns the condition that the client has the generation, from
// If-None-Match; nil without the header.
func generationHeld(ifNoneMatch *string) (keys.Condition, error) {
	list, err := headers.ParseETags("If-None-Match", ifNoneMatch)
	if err != nil || list == nil {
		return nil, err
	}
	return func(generation uint64) bool {
		return list.MatchWeak(generationETag(generation))
	}, nil
}

// generationCondition returns the condition from If-Match; nil without the header.
func generationCondition(ifMatch *string) (keys.Condition, error) {
	list, err := headers.ParseETags("If-Match", ifMatch)
	if err != nil || list == nil {
		return nil, err
	}
	return func(generation uint64) bool {
		return list.MatchStrong(generationETag(generation))
	}, nil
}

// update makes and records an update. It answers with the set that is active then, or
// with the error.
func (a *API) update(w http.ResponseWriter, r *http.Request, u keys.Update, do func(context.Context, keys.Update) (keys.Description, error)) {
	u.Record = a.recordChange(w, r)
	description, err := do(r.Context(), u)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeDescription(w, description)
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
	if !d.NextRotationAt.IsZero() {
		out.NextRotationAt = new(d.NextRotationAt.UTC())
	}
	for i, k := range d.Keys {
		out.Keys[i] = api.TicketKey{
			Name: k.Name.String(), Role: api.TicketKeyRole(k.Role), Bits: api.TicketKeyBits(k.Bits),
			Fingerprint: k.Fingerprint, DerivedFor: derivedFor(k, d.Keys[0]), CreatedAt: k.CreatedAt.UTC(),
		}
		if !k.ActivatedAt.IsZero() {
			out.Keys[i].ActivatedAt = new(k.ActivatedAt.UTC())
		}
	}
	return out
}

// derivedFor lists the formats that hold derived secrets of a key.
func derivedFor(k, current keys.KeyDescription) []api.TicketKeyFormat {
	var formats []api.TicketKeyFormat
	for _, f := range keys.Formats() {
		if f.Derives(k.Bits, current.Bits) {
			formats = append(formats, api.TicketKeyFormat(f.String()))
		}
	}
	return formats
}
