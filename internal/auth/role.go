package auth

import (
	"fmt"
	"strings"
)

// Roles is a set of roles.
type Roles uint8

// The roles. The table of operations in internal/handlers, and docs/policy.md, say what
// each permits.
const (
	SessionRead  Roles = 1 << iota // the bytes of sessions, and their descriptions
	SessionWrite                   // store and remove sessions
	KeyPublish                     // replace, rotate and revoke ticket keys
	KeyConsume                     // the bytes of ticket keys
	Observe                        // descriptions without secrets, status, metrics
	Admin                          // everything

	// Anyone permits requests without an identity. No identity has this role.
	Anyone
)

var roleNames = []string{"session-read", "session-write", "key-publish", "key-consume", "observe", "admin"}

// Permit reports whether r includes one of the roles in anyOf. Admin always suffices.
func (r Roles) Permit(anyOf Roles) bool { return r&(anyOf|Admin) != 0 }

// String returns the names of the roles, separated by spaces.
func (r Roles) String() string {
	if r == Anyone {
		return "anyone"
	}
	return strings.Join(r.Names(), " ")
}

// Names lists the names of the roles as in a policy.
func (r Roles) Names() (names []string) {
	for i, name := range roleNames {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// UnmarshalText reads the name of one role.
func (r *Roles) UnmarshalText(text []byte) error {
	for i, name := range roleNames {
		if string(text) == name {
			*r = 1 << i
			return nil
		}
	}
	return fmt.Errorf("unknown role %q; the roles are %s", text, strings.Join(roleNames, ", "))
}
