<?php

namespace App\Models;

use Laravel\Sanctum\HasApiTokens;

/** Owns instance tokens. */
class Workspace extends \Illuminate\Database\Eloquent\Model implements \Illuminate\Contracts\Auth\Authenticatable
{
    use HasApiTokens, \Illuminate\Auth\Authenticatable;
}
