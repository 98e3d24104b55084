package agent

import "github.com/sessapi/sessapi/internal/keys"

// h2o is H2O with the ticket-store file, which it rereads every 10 seconds.
var h2o = kind{format: keys.H2O}
